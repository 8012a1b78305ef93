// One query's answer on the page: its status, the text as it arrives, and at the end what it took.
// Used by the page that asks and by the page that shows a query again.

import { alertIn, confidence, element, latency } from "/console/dom.js";
import { QueryStream } from "/console/query-socket.js";
import { api } from "/console/session.js";

const ENDED = new Set(["completed", "failed", "cancelled"]);
// The record of a finished query reaches the read side a moment after its last update.
const RECORD_DELAYS_MS = [0, 150, 300, 600, 1200, 2400, 4800];
// How often the arriving text is read out: often enough to follow, seldom enough to be understood.
const ANNOUNCE_MS = 4000;
const NEAR_END_PX = 160;

export class AnswerView {
  #problem;
  #handlers;
  #queryId = null;
  #stream = null;
  #started = false;
  #arrived = "";
  #drawn = 0;
  #announced = 0;
  #announcer = null;
  #frame = null;
  #refusal = null;

  #status = element("span.chip", { role: "status" });
  #position = element("span.seq", { title: "Updates received, in order and without a gap" });
  #cancel = element(
    "button.button.quiet.danger",
    { type: "button", hidden: true, onclick: () => this.#cancelQuery() },
    "Cancel",
  );
  #copy = element(
    "button.button.quiet",
    { type: "button", hidden: true, onclick: () => this.#copyText() },
    "Copy",
  );
  #link = element("p.link-state", { role: "status", hidden: true });
  #again = element(
    "button.button.quiet",
    { type: "button", onclick: () => this.#stream.retry() },
    "Try again",
  );
  #text = document.createTextNode("");
  #paper = element("div.answer-text", { hidden: true }, this.#text);
  #aloud = element("p.aloud", { "aria-live": "polite" });
  #facts = element("dl.facts", { hidden: true });

  // Fills `root`; errors go to the `problem` region. Handlers, all optional: `started()` with the
  // first update, `refused(error)` when the server did not take the question, `ended(status)`.
  constructor(root, problem, handlers = {}) {
    this.#problem = problem;
    this.#handlers = handlers;
    root.replaceChildren(
      element(
        "div.answer-bar",
        {},
        this.#status,
        this.#position,
        element("span.answer-actions", {}, this.#copy, this.#cancel),
      ),
      this.#link,
      this.#paper,
      this.#aloud,
      this.#facts,
    );
    this.#setStatus("connecting");
  }

  // Submits a question and shows what comes.
  ask(queryId, submission) {
    this.#open(queryId, submission);
  }

  // Shows a query that exists already: the stored answer, or the stream from its first update.
  show(item) {
    this.#queryId = item.query_id;
    this.#started = true;
    this.#setStatus(item.status);
    if (!ENDED.has(item.status)) {
      this.#open(item.query_id, null);
      return;
    }
    this.#arrived = item.response_text ?? "";
    this.#draw();
    this.#finish(item.status, item);
  }

  #open(queryId, submission) {
    this.#queryId = queryId;
    this.#stream = new QueryStream(queryId, submission, {
      update: (data, seq) => this.#update(data, seq),
      refused: (error) => this.#refused(error),
      link: (state, seconds) => this.#linkState(state, seconds),
    });
    this.#stream.start();
  }

  #update(data, seq) {
    if (!this.#started) {
      this.#started = true;
      this.#handlers.started?.();
    }
    this.#position.textContent = `seq ${seq}`;
    this.#cancel.hidden = Boolean(data.complete);
    if (data.status) this.#setStatus(data.status);
    if (data.chunk) {
      this.#arrived += data.chunk;
      this.#frame ??= requestAnimationFrame(() => this.#draw());
      this.#announcer ??= setTimeout(() => this.#announce(false), ANNOUNCE_MS);
    }
    if (data.complete) {
      if (data.responseText !== undefined) this.#settle(data.responseText);
      this.#draw();
      this.#finish(data.status);
    }
  }

  // The last message's text decides, should it ever differ from the parts.
  #settle(responseText) {
    if (responseText === this.#arrived) return;
    this.#arrived = responseText;
    this.#drawn = 0;
    this.#text.data = "";
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    if (this.#drawn === this.#arrived.length) return;
    const page = document.documentElement;
    const atEnd = page.scrollHeight - scrollY - innerHeight < NEAR_END_PX;
    this.#paper.hidden = false;
    this.#text.appendData(this.#arrived.slice(this.#drawn));
    this.#drawn = this.#arrived.length;
    if (this.#stream && atEnd) scrollTo(0, page.scrollHeight);
  }

  // Puts the text since the last time into the live region, up to a word's end while more is to
  // come.
  #announce(last) {
    clearTimeout(this.#announcer);
    this.#announcer = null;
    const rest = this.#arrived.slice(this.#announced);
    const length = last ? rest.length : rest.search(/\s\S*$/) + 1;
    if (length === 0) return;
    this.#aloud.textContent = rest.slice(0, length);
    this.#announced += length;
  }

  #refused(error) {
    if (this.#started) {
      // The update that ends the query follows; what went wrong is shown with it.
      this.#refusal = error;
      if (!this.#cancel.hidden) alertIn(this.#problem, error);
      return;
    }
    this.#stream.stop();
    if (this.#handlers.refused) this.#handlers.refused(error);
    else alertIn(this.#problem, error);
  }

  async #finish(status, item = null) {
    this.#cancel.hidden = true;
    this.#linkState("open");
    this.#copy.hidden = this.#arrived === "" || !navigator.clipboard;
    if (this.#stream) this.#announce(true);
    if (status === "failed" && !this.#refusal) {
      alertIn(this.#problem, "The model could not finish this answer. Ask again to start over.");
    }
    this.#handlers.ended?.(status);
    if (status !== "completed") return;
    try {
      const record = item ?? (await this.#record());
      this.#facts.replaceChildren(
        ...fact("Model:", record.model_used ?? "not recorded"),
        ...fact("Latency:", latency(record.latency_ms)),
        ...fact("Confidence:", confidence(record.confidence)),
      );
      this.#facts.hidden = false;
    } catch (error) {
      if (error.code !== "SIGNED_OUT")
        alertIn(
          this.#problem,
          `The answer is whole, but its details could not be read. ${error.message}`,
        );
    }
  }

  // The stored item, asked for until the read side has the end of the query.
  async #record() {
    let item = null;
    for (const delay of RECORD_DELAYS_MS) {
      if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
      item = (await api(`/v1/queries/${this.#queryId}`)).data;
      if (ENDED.has(item.status)) break;
    }
    return item;
  }

  async #cancelQuery() {
    this.#cancel.disabled = true;
    try {
      await api(`/v1/queries/${this.#queryId}/cancel`, { method: "POST", body: {} });
    } catch (error) {
      if (error.code !== "SIGNED_OUT") alertIn(this.#problem, error);
    } finally {
      this.#cancel.disabled = false;
    }
  }

  async #copyText() {
    await navigator.clipboard.writeText(this.#arrived);
    this.#copy.textContent = "Copied";
    setTimeout(() => (this.#copy.textContent = "Copy"), 1500);
  }

  #setStatus(status) {
    if (this.#status.dataset.status === status) return;
    this.#status.dataset.status = status;
    this.#status.textContent = status === "streaming" ? "Streaming" : status;
    this.#paper.classList.toggle("live", status === "streaming");
  }

  #linkState(state, seconds) {
    this.#link.hidden = state !== "waiting" && state !== "lost";
    if (state === "waiting") {
      this.#link.replaceChildren(
        `The connection was lost. Trying again in ${seconds} s; nothing that arrives meanwhile is missed.`,
      );
    } else if (state === "lost") {
      const meanwhile = this.#started ? "The query goes on without this page. " : "";
      this.#link.replaceChildren(`The server cannot be reached. ${meanwhile}`, this.#again);
    }
  }
}

function fact(name, value) {
  return [element("div", {}, element("dt", {}, name), element("dd", {}, value))];
}
