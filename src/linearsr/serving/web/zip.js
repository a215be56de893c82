// Several files as one ZIP, stored as they are: photos do not get smaller.

const MOST = 2 ** 32 - 1;
/** 1 January 1980, as ZIP counts; without it some programs show nonsense. */
const DATE = 0x21;
const UTF8 = 0x800;

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

async function checksum(blob) {
  let sum = -1;
  const reader = blob.stream().getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return ~sum >>> 0;
    for (const byte of value) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  }
}

/** A record of numbers, each [bytes, value]. */
function record(...numbers) {
  const view = new DataView(new ArrayBuffer(numbers.reduce((sum, [bytes]) => sum + bytes, 0)));
  let at = 0;
  for (const [bytes, value] of numbers) {
    view[bytes === 2 ? "setUint16" : "setUint32"](at, value, true);
    at += bytes;
  }
  return view;
}

/** A Blob with files [{name, blob}]; names that are there twice are numbered. Throws RangeError beyond 4 GiB. */
export async function zip(files) {
  const [parts, index, used] = [[], [], new Set()];
  let offset = 0;
  for (const { name, blob } of files) {
    const bytes = new TextEncoder().encode(free(name, used));
    const sizes = [[4, await checksum(blob)], [4, blob.size], [4, blob.size], [2, bytes.length], [2, 0]];
    const common = [[2, 20], [2, UTF8], [2, 0], [2, 0], [2, DATE], ...sizes];
    parts.push(record([4, 0x04034b50], ...common), bytes, blob);
    index.push(record([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), bytes);
    offset += 30 + bytes.length + blob.size;
    if (offset > MOST) throw new RangeError("a ZIP holds 4 GiB");
  }
  const length = index.reduce((sum, part) => sum + part.byteLength, 0);
  const count = files.length;
  const end = record([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, length], [4, offset], [2, 0]);
  return new Blob([...parts, ...index, end], { type: "application/zip" });
}

function free(name, used) {
  let chosen = name;
  for (let number = 2; used.has(chosen); number++) chosen = name.replace(/(\.[^.]*)?$/, ` (${number})$1`);
  used.add(chosen);
  return chosen;
}
