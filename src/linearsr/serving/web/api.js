// The server's HTTP interface, /v1; paths are relative, so the page also works behind a prefix.

import { read } from "./events.js";

const SHELF = "linearsr-key";

export class ApiError extends Error {
  /** `status` 0: no answer. `retryAfter`: seconds to wait before another try, where the server says so. */
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export class Api {
  /** `askForKey`: resolves to a key when the server wants one, or to "" when none is given. */
  constructor(askForKey) {
    this.askForKey = askForKey;
  }

  async models() {
    return (await this.#call("v1/models")).json();
  }

  /** Queue a photo; answers with the job. `options` as the fields of POST /v1/upscale. */
  async enlarge(file, options, signal) {
    return (await this.#send("v1/upscale", file, { ...options, wait: "false" }, signal)).json();
  }

  /** What the model's tagger finds: [{tag, score}], the surest first. */
  async tags(file, signal) {
    return (await (await this.#send("v1/tags", file, {}, signal)).json()).tags;
  }

  async job(id) {
    return (await this.#call(`v1/jobs/${id}`)).json();
  }

  /** The job now and after every change, until it ends or the connection does. */
  async *changes(id, signal) {
    const response = await this.#call(`v1/jobs/${id}/events`, { signal });
    for await (const data of read(response.body)) yield JSON.parse(data);
  }

  async result(id, format) {
    return (await this.#call(`v1/jobs/${id}/result?format=${format}`)).blob();
  }

  async remove(id) {
    await this.#call(`v1/jobs/${id}`, { method: "DELETE" });
  }

  #send(path, file, fields, signal) {
    const body = new FormData();
    body.append("image", file, file.name);
    for (const [name, value] of Object.entries(fields)) if (value != null) body.append(name, value);
    return this.#call(path, { method: "POST", body, signal });
  }

  async #call(path, request = {}) {
    const key = sessionStorage.getItem(SHELF);
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    let response;
    try {
      response = await fetch(path, { ...request, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server does not answer. Is it running?");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      sessionStorage.setItem(SHELF, await this.#newKey(Boolean(key)));
      return this.#call(path, request);
    }
    const said = await response.json().catch(() => null);
    const wait = Number.parseFloat(response.headers.get("Retry-After"));
    const message = said?.error?.message ?? `The server answered with status ${response.status}.`;
    throw new ApiError(response.status, message, Number.isFinite(wait) ? wait : null);
  }

  /** Asks until there is a key that a header can hold. */
  async #newKey(wrong) {
    const given = await this.askForKey(wrong);
    if (!given) throw new ApiError(401, "This server needs a key: reload the page to enter one.");
    return /^[!-~]+$/.test(given) ? given : this.#newKey(true);
  }
}
