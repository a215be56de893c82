// How photos come in: chosen, dropped or pasted.

import { $ } from "./dom.js";

/** Call `take` with each list of files that the person gives. */
export function watchIntake(take) {
  const files = $("files");
  const choose = () => files.click();
  for (const id of ["choose", "add"]) $(id).addEventListener("click", choose);
  $("drop").addEventListener("click", (event) => event.target.closest("button") ?? choose());
  files.addEventListener("change", () => {
    take([...files.files]);
    files.value = "";
  });

  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (value) => document.body.classList.toggle("dragging", value);
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
  addEventListener("drop", (event) => {
    mark(false);
    if (!carriesFiles(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (!pasted.length) return;
    event.preventDefault();
    take(pasted);
  });
}

/** Its size and a thumbnail, where this browser can show the file: {size, thumbnail}, else {size: null, thumbnail: null}. */
export async function look(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    const size = { width: image.naturalWidth, height: image.naturalHeight };
    return { size, thumbnail: thumbnail(image) };
  } catch {
    return { size: null, thumbnail: null };
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

function thumbnail(image, side = 128) {
  const canvas = document.createElement("canvas");
  const share = side / Math.min(image.naturalWidth, image.naturalHeight);
  canvas.width = canvas.height = side;
  const [width, height] = [image.naturalWidth * share, image.naturalHeight * share];
  canvas.getContext("2d").drawImage(image, (side - width) / 2, (side - height) / 2, width, height);
  return canvas.toDataURL("image/webp", 0.8);
}
