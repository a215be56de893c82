// Numbers and states in words.

export const megabytes = (bytes) => `${Number((bytes / 2 ** 20).toPrecision(3))} MB`;
export const megapixels = (pixels) => `${Number((pixels / 1e6).toPrecision(3))} megapixels`;
export const sides = ({ width, height }) => `${width} × ${height}`;

export function duration(seconds) {
  const [number, unit] = seconds >= 3600 ? [seconds / 3600, "hour"] : seconds >= 60 ? [seconds / 60, "minute"] : [seconds, "second"];
  const rounded = Number(number.toPrecision(2));
  return `${rounded} ${unit}${rounded === 1 ? "" : "s"}`;
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1);

/** A photo's state for people; "" where there is nothing to say. */
export function describe(photo) {
  const { state, job, message, retryAt } = photo;
  switch (state) {
    case "sending":
      return "Sending…";
    case "waiting":
      if (!retryAt) return "Waits for the photo before it";
      return `The server is full. Trying again in ${Math.max(1, Math.ceil((retryAt - Date.now()) / 1000))}\u00a0s`;
    case "queued":
      return job.position ? `In the queue, ${job.position} before it` : "Next in the queue";
    case "running":
      return job.step < job.steps ? `Step ${job.step + 1} of ${job.steps}` : "Finishing…";
    case "failed":
      return message ? sentence(message) : "This did not work.";
    case "cancelled":
      return "Cancelled";
    case "gone":
      return "The server has removed this result; it keeps them for a while only.";
    default:
      return "";
  }
}

/** "holiday.jpg" at x4 -> "holiday_x4.png" */
export function resultName(photo, format) {
  const stem = photo.name.replace(/\.[^.]*$/, "") || "photo";
  return `${stem}_x${photo.options.scale}.${format === "tiff" ? "tif" : format}`;
}
