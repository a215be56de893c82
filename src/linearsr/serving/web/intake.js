// How photos come in: chosen, taken, dropped (folders too) or pasted.

import { $ } from "./dom.js";

/** Of names that may be photos'. */
export const ENDINGS = /\.(jpe?g|jpe|jfif|mpo|a?png|webp|avif|gif|bmp|tiff?|tga|jp2|jxl|hei[cf]|hif|p[bgpn]m|dng|cr[23]|nef|arw|raf|orf|rw2)$/i;

/** Call `take(files, left)` with what the person gives; `left` are names of files in folders that are no photos. */
export function watchIntake(take) {
  for (const [input, ...buttons] of [["files", "choose", "add"], ["camera-file", "camera"]]) {
    for (const id of buttons) $(id).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      take([...$(input).files], []);
      $(input).value = "";
    });
  }
  $("drop").addEventListener("click", (event) => event.target.closest("button") ?? $("files").click());

  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (value) => document.body.classList.toggle("dragging", value);
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
  addEventListener("drop", async (event) => {
    mark(false);
    if (!carriesFiles(event)) return;
    event.preventDefault();
    take(...(await dropped(event.dataTransfer)));
  });
  addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (!pasted.length) return;
    event.preventDefault();
    take(pasted, []);
  });
}

/** [files, names of what is no photo]: a file is taken as it is, a folder is walked. */
async function dropped(transfer) {
  // the entries are gone after the first await
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  if (!entries.every(Boolean)) return [[...transfer.files], []];
  const files = [];
  const left = [];
  for (const entry of entries) {
    if (entry.isFile) files.push(await read(entry));
    else await walk(entry, files, left);
  }
  return [files, left];
}

async function walk(folder, files, left) {
  const reader = folder.createReader();
  for (;;) {
    // some hundred at a time, none at the end
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return;
    for (const entry of entries.sort((one, other) => one.name.localeCompare(other.name))) {
      if (entry.isDirectory) await walk(entry, files, left);
      else if (ENDINGS.test(entry.name)) files.push(await read(entry));
      else left.push(entry.name);
    }
  }
}

const read = (entry) => new Promise((resolve, reject) => entry.file(resolve, reject));

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
