// "New Query": takes a question, sends it over the query socket and shows the answer below the
// form.

import { AnswerView } from "/console/answer.js";
import { alertIn, byId, clearFormError, fieldError, showFormError } from "/console/dom.js";
import { api, requireSession } from "/console/session.js";

const MAX_CHARACTERS = 32_000;
// The socket takes frames up to 64 KiB; a longer question in a wide script goes by REST. The rest
// is for the frame's other fields.
const MAX_FRAME_TEXT_BYTES = 60 * 1024;

const form = byId("form");
const problem = byId("problem");
const result = byId("result");
const input = form.elements.query;
const button = form.querySelector("button[type=submit]");

// The question on its way. As long as the server has not taken it, sending the same again keeps its
// id, so that a lost answer never makes two queries of one.
let pending = null;

if (requireSession()) {
  input.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit(button);
    }
  });
}

async function submit() {
  if (button.disabled) return;
  clearFormError(form, problem);
  const submission = { query: input.value.trim(), operation: form.elements.operation.value };
  const complaint = check(submission.query);
  if (complaint) {
    fieldError(input, complaint);
    input.focus();
    return;
  }
  if (
    pending?.submission.query !== submission.query ||
    pending.submission.operation !== submission.operation
  ) {
    pending = { queryId: newId(), submission };
  }
  const { queryId } = pending;
  busy(true);
  // On a phone the keyboard would cover the answer.
  if (matchMedia("(pointer: coarse)").matches) input.blur();
  result.hidden = false;
  const view = new AnswerView(result, problem, {
    started: () => {
      pending = null;
      // From here on a reload shows this query again, and resumes its stream.
      history.replaceState(null, "", `/queries/${queryId}`);
    },
    refused,
    ended: () => {
      busy(false);
      byId("again").hidden = false;
    },
  });
  if (new TextEncoder().encode(JSON.stringify(submission.query)).length <= MAX_FRAME_TEXT_BYTES) {
    view.ask(queryId, submission);
    return;
  }
  try {
    const body = { ...submission, query_id: queryId };
    await api("/v1/query", { method: "POST", body, headers: { Prefer: "respond-async" } });
    view.ask(queryId, null);
  } catch (error) {
    if (error.code !== "SIGNED_OUT") refused(error);
  }
}

function refused(error) {
  busy(false);
  result.hidden = true;
  if (error.code === "VALIDATION_ERROR" && !error.details?.length) fieldError(input, error.message);
  else showFormError(form, problem, error);
  input.focus();
}

function busy(running) {
  button.disabled = running;
  input.readOnly = running;
  form.elements.operation.disabled = running;
  byId("again").hidden = true;
  if (running) alertIn(problem, null);
}

function check(query) {
  if (query === "") return "Write a question first.";
  const length = [...query].length;
  if (length <= MAX_CHARACTERS) return null;
  return `A question has at most ${MAX_CHARACTERS.toLocaleString("en")} characters; this one has ${length.toLocaleString("en")}.`;
}

// A random UUID. `crypto.randomUUID` exists on https and on localhost only.
function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
