// One query's updates over the query socket, without gaps and without repetition.
//
// Every update carries `seq` = 1, 2, 3… for its query. The stream hands on each number once and in
// order; after a drop it connects again and asks for what follows the last number it saw. A
// submission that got no update yet is sent again under the same id, which the server recognises,
// so nothing is asked twice.

import { accessToken, current, leave, refresh } from "/console/session.js";

const RETRY_SECONDS = [1, 2, 4, 8, 16];
const HEARTBEAT_MS = 30_000;
const ANSWER_MS = 10_000;

const CLOSE_NORMAL = 1000;
const CLOSE_POLICY = 1008;
const CLOSE_TOO_LARGE = 1009;
const CLOSE_TOKEN = 4401;
const CLOSE_INACTIVE = 4403;

export class QueryStream {
  #queryId;
  #submission;
  #handlers;
  #socket = null;
  #lastSeq = 0;
  #failures = 0;
  #renewed = false;
  #ended = false;
  #waiting = null;
  #heartbeat = null;
  #deadline = null;

  // `submission` is `{query, operation}` to ask, or null to follow a query that exists. The
  // handlers: `update(data, seq)`, `refused({code, message})` for an error message of the server
  // about this query, `link(state, seconds)` with state `connecting`, `open`, `waiting` (seconds
  // until the next try) or `lost`.
  constructor(queryId, submission, handlers) {
    this.#queryId = queryId;
    this.#submission = submission;
    this.#handlers = handlers;
  }

  start() {
    addEventListener("online", this.#hurry);
    this.#connect();
  }

  // Ends for good; also called by the stream itself after the last update.
  stop() {
    this.#ended = true;
    removeEventListener("online", this.#hurry);
    clearTimeout(this.#waiting);
    this.#release(CLOSE_NORMAL);
  }

  // After `lost`: starts over with the first delay.
  retry() {
    this.#failures = 0;
    this.#connect();
  }

  #hurry = () => {
    if (this.#waiting === null) return;
    clearTimeout(this.#waiting);
    this.#connect();
  };

  async #connect() {
    this.#waiting = null;
    this.#handlers.link("connecting");
    let token;
    try {
      token = await accessToken();
    } catch (error) {
      if (error.code !== "SIGNED_OUT") this.#retryLater();
      return;
    }
    if (this.#ended) return;
    const socket = new WebSocket(address(token));
    this.#socket = socket;
    socket.addEventListener("open", () => this.#greet());
    socket.addEventListener("message", (event) => {
      if (socket === this.#socket) this.#receive(event.data);
    });
    socket.addEventListener("close", (event) => {
      if (socket === this.#socket) this.#closed(event, token);
    });
  }

  #greet() {
    const pending = this.#submission !== null && this.#lastSeq === 0;
    if (pending) {
      this.#send({ type: "submit_query", queryId: this.#queryId, ...this.#submission });
    } else {
      const from = this.#lastSeq > 0 ? { fromSeq: this.#lastSeq } : {};
      this.#send({ type: "subscribe_query", queryId: this.#queryId, ...from });
    }
    this.#heartbeat = setInterval(() => {
      this.#send({ type: "heartbeat" });
      this.#deadline ??= setTimeout(() => this.#drop(), ANSWER_MS);
    }, HEARTBEAT_MS);
    this.#handlers.link("open");
  }

  #receive(text) {
    // Any frame shows that the other side lives.
    clearTimeout(this.#deadline);
    this.#deadline = null;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    const data = message.data ?? {};
    if (message.type === "ping") this.#send({ type: "pong" });
    else if (message.type === "query_update" && data.queryId === this.#queryId)
      this.#update(data, message.seq);
    else if (message.type === "error" && (!data.queryId || data.queryId === this.#queryId))
      this.#handlers.refused(data);
  }

  #update(data, seq) {
    if (seq <= this.#lastSeq) return;
    // A jump is legal only to the completing message, which is all that is kept of an old stream.
    if (seq > this.#lastSeq + 1 && !data.complete) {
      this.#drop();
      return;
    }
    this.#lastSeq = seq;
    this.#failures = 0;
    this.#renewed = false;
    if (data.complete) this.stop();
    this.#handlers.update(data, seq);
  }

  async #closed({ code, reason }, token) {
    this.#release();
    if (code === CLOSE_TOKEN) {
      await this.#renew(reason, token);
    } else if (code === CLOSE_INACTIVE) {
      this.stop();
      leave("expired");
    } else if (code === CLOSE_POLICY) {
      this.#giveUp("The server does not accept connections from this address.");
    } else if (code === CLOSE_TOO_LARGE) {
      this.#giveUp("The question is too long.");
    } else {
      this.#retryLater();
    }
  }

  // An outdated token is renewed once; a token refused for another reason, or twice, ends the
  // session.
  async #renew(reason, token) {
    const replaced = current() && current().access_token !== token;
    if (this.#renewed || (reason !== "AUTH_TOKEN_EXPIRED" && !replaced)) {
      this.stop();
      leave("expired");
      return;
    }
    this.#renewed = true;
    try {
      await refresh(token);
    } catch (error) {
      if (error.code !== "SIGNED_OUT") this.#retryLater();
      return;
    }
    if (!this.#ended) this.#connect();
  }

  #giveUp(message) {
    this.#handlers.refused({ code: "BAD_REQUEST", message });
    this.stop();
  }

  #drop() {
    this.#release(CLOSE_NORMAL);
    this.#retryLater();
  }

  #retryLater() {
    if (this.#ended) return;
    if (this.#failures >= RETRY_SECONDS.length) {
      this.#handlers.link("lost");
      return;
    }
    const seconds = RETRY_SECONDS[this.#failures];
    this.#failures += 1;
    this.#waiting = setTimeout(() => this.#connect(), seconds * 1000);
    this.#handlers.link("waiting", seconds);
  }

  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify({ ...message, timestamp: new Date().toISOString() }));
  }

  // Lets go of the present socket, so that its late events are ignored.
  #release(code = null) {
    clearInterval(this.#heartbeat);
    clearTimeout(this.#deadline);
    this.#deadline = null;
    const socket = this.#socket;
    this.#socket = null;
    if (code !== null) socket?.close(code);
  }
}

function address(token) {
  const url = new URL("/v1/ws/query", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("token", token);
  return url;
}
