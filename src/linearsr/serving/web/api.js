// The server's HTTP interface, /v1; paths are relative, so the page also works behind a prefix.

import { read } from "./events.js";
import { has, t } from "./i18n.js";

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
    return (await this.#call("connect", "v1/models")).json();
  }

  /** Queue a photo; answers with the job. `options` as the fields of POST /v1/upscale. */
  async enlarge(file, options, signal) {
    return (await this.#send("v1/upscale", file, { ...options, wait: "false" }, signal)).json();
  }

  /** Enlarge a small part at once: {blob, id}. When `signal` aborts, the server does not go on. */
  async preview(file, options, signal) {
    const response = await this.#send("v1/upscale", file, { ...options, wait: "true" }, signal);
    return { blob: await response.blob(), id: response.headers.get("X-Job-ID") };
  }

  /** What the model's tagger finds: [{tag, score}], the surest first. */
  async tags(file, signal) {
    return (await (await this.#send("v1/tags", file, {}, signal)).json()).tags;
  }

  async job(id) {
    return (await this.#call("other", `v1/jobs/${id}`)).json();
  }

  /** The job now and after every change, until it ends or the connection does. */
  async *changes(id, signal) {
    const response = await this.#call("follow", `v1/jobs/${id}/events`, { signal });
    for await (const data of read(response.body)) yield JSON.parse(data);
  }

  /** `stripped`: without camera data and location. */
  async result(id, format, stripped = false) {
    return (await this.#call("result", `v1/jobs/${id}/result?format=${format}&stripped=${stripped}`)).blob();
  }

  /** A large result as a small picture; `region`: a part of it, [left, top, width, height] in its pixels. */
  async small(id, region = []) {
    return (await this.#call("result", `v1/jobs/${id}/preview?region=${region}`)).blob();
  }

  async remove(id) {
    await this.#call("other", `v1/jobs/${id}`, { method: "DELETE" });
  }

  #send(path, file, fields, signal) {
    const body = new FormData();
    body.append("image", file, file.name);
    for (const [name, value] of Object.entries(fields)) if (value != null) body.append(name, value);
    return this.#call("send", path, { method: "POST", body, signal });
  }

  /** `what`: is being done, for the words if it fails. */
  async #call(what, path, request = {}) {
    const key = sessionStorage.getItem(SHELF);
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    let response;
    try {
      response = await fetch(path, { ...request, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, t(`what.${what}`, { host: location.host }));
    }
    if (response.ok) return response;
    if (response.status === 401) {
      sessionStorage.setItem(SHELF, await this.#newKey(Boolean(key)));
      return this.#call(what, path, request);
    }
    const said = await response.json().catch(() => null);
    const wait = Number.parseFloat(response.headers.get("Retry-After"));
    const { code, message: reason = t("answered", { status: String(response.status) }) } = said?.error ?? {};
    const message = has(`code.${code}`) ? `${t(`code.${code}`)}: ${reason}` : reason;
    throw new ApiError(response.status, message, Number.isFinite(wait) ? wait : null);
  }

  /** Asks until there is a key that a header can hold. */
  async #newKey(wrong) {
    const given = await this.askForKey(wrong);
    if (!given) throw new ApiError(401, t("key.missing"));
    return /^[!-~]+$/.test(given) ? given : this.#newKey(true);
  }
}
