#!/usr/bin/env bash
# The paper from end to end on a CPU, in minutes: the commands and recipes of the full size, on tiny random checkpoints.
#   examples/paper_in_miniature.sh [FOLDER]                        needs pip install '.[train,full]'
# GUIDANCE="none tags" leaves rows out of the table (tags stay the last); IMAGES=16 trains for less. The figures mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/miniature}
parts=$out/parts
images=${IMAGES:-48}
photos=examples/photos
if [ -e "$out" ]; then
  echo "$out is there already: remove it or name another folder" >&2
  exit 2
fi
mkdir -p "$out/results"

echo "== checkpoints: SANA, Gemma 2, CLIP, DINOv2, as diffusers and transformers write them"
python examples/paper_in_miniature.py checkpoints "$parts"

echo "== convert: a .pth of NVlabs to the format of diffusers, a SANA to a LinearSR that is still to be trained"
linearsr convert "$parts/sana.pth" -o "$out/sana-from-pth"
linearsr convert "$parts/sana" -o "$out/untrained"

echo "== shard: photos to crops, with their latents"
linearsr shard $photos/train -o "$out/shards" --size 64 --latents "$parts/sana/vae"

echo "== tag: each crop, and the photos for validation, degraded as the model will see them"
linearsr tag "$out/shards" $photos/val --tagger "$parts/tagger" --degrade realesrgan -o "$out/tags.json"
python examples/paper_in_miniature.py sentences "$out/tags.json"

common=(
  batch_size=2 mixed_precision="'no'" save_every_images=8 keep_checkpoints=1
  data.folders={} "data.shards={$out/shards: 1.0}" data.tags="$out/tags.json" data.lr_crop=16 data.workers=0
  validation.folder=$photos/val validation.max_pictures=2 validation.degradations=[mild] validation.sample_pictures=0
  optimizer.warmup_images=0
)
recipe=(configs/600m/pipeline.yaml --set boundaries="[0.223, 0.875, 0.939]")
for each in "${common[@]}"; do recipe+=(--set "common.$each"); done
for stage in pretrain experts sft; do
  recipe+=(--set stages.$stage.total_images="$images" --set stages.$stage.validation.every_images=$((images / 8)))
done
recipe+=(
  --set stages.pretrain.stage.preset=tiny --set stages.pretrain.stage.sana="$parts/sana"
  --set stages.pretrain.stage.validation_steps=4 --set common.validation.metrics="[psnr_y, lpips]"
  --set stages.sft.data.scores="$out/scores" --set parts.tagger="$parts/tagger" --set model.num_inference_steps=4
)
rows=()
row() { # NAME MODEL [OPTION...]
  local asked=(--data $photos/val --degrade mild --metrics psnr_y,lpips,niqe --json)
  linearsr eval --model "$2" "${asked[@]}" "${@:3}" > "$out/results/$1.json"
  rows+=("$out/results/$1.json")
}

for kind in ${GUIDANCE:-none clip dino sentences tags}; do
  part=stages.pretrain.stage.guidance.part
  asked=("${recipe[@]}" --set run_dir="$out/$kind")
  told=()
  case $kind in
    none) asked+=(--set stages.pretrain.stage.guidance=null --set model.use_tags=false) ;;
    clip | dino) asked+=(--set "$part=$parts/$kind" --set model.use_tags=false) ;;
    sentences)
      asked+=(--set "$part=$parts/sentences" --set common.data.tags="$out/sentences.json")
      told=(--tags "$out/sentences.json")
      ;;
    tags) asked+=(--set "$part=$parts/tags") ;;
  esac
  echo "== pretrain to the knee, guidance: $kind"
  linearsr train "${asked[@]}" --set stages.experts=null --set stages.sft=null
  row "$kind" "$out/$kind/model" ${told[@]+"${told[@]}"}
done

echo "== the plan of all stages, the knee of the first one, then four experts, fine-tuning"
linearsr train "${asked[@]}" --dry-run
linearsr knee "$out/$kind/pretrain"
linearsr train "${asked[@]}" --resume --set stages.sft=null
row "$kind, experts" "$out/$kind/model"
linearsr train "${asked[@]}" --resume
row "$kind, experts, sft" "$out/$kind/model"

echo "== one step, with that model as the teacher"
teacher=$out/$kind/model
one=(configs/600m/one-step.yaml --set run_dir="$out/one-step" --set parts.tagger="$parts/tagger")
for each in "${common[@]}" total_images="$images" validation.every_images=$((images / 2)) validation.metrics="[psnr_y]" \
  stage.stem="$teacher/lr_stem" stage.codec="$teacher/codec" stage.init="$teacher/transformer/expert_0" \
  stage.teacher="$teacher/transformer" stage.guidance.part="$teacher/guidance" stage.channels=8 stage.judged_crop=8; do
  one+=(--set "stages.one_step.$each")
done
linearsr train "${one[@]}"
row "one step" "$out/one-step/model"

echo
python examples/paper_in_miniature.py table "${rows[@]}"
