// Recent queries, newest first. While one of them still runs, the list is read again every few
// seconds.

import { alertIn, byId, confidence, element, latency, statusChip, timeAgo } from "/console/dom.js";
import { api, current, requireSession } from "/console/session.js";

const PAGE = 20;
const POLL_MS = 4000;
const RUNNING = new Set(["queued", "processing", "streaming"]);

const list = byId("queries");
const more = byId("more");
const problem = byId("problem");

let items = [];
let cursor = null;
let timer = null;

async function read(path) {
  const { data, headers } = await api(path);
  return { page: data, next: headers.get("X-Next-Cursor") };
}

// The newest page, put before what older pages brought earlier.
async function refreshList() {
  clearTimeout(timer);
  try {
    const { page, next } = await read(`/v1/queries?limit=${PAGE}`);
    if (items.length <= PAGE) cursor = next;
    const fresh = new Set(page.map((item) => item.query_id));
    items = [...page, ...items.filter((item) => !fresh.has(item.query_id))];
    alertIn(problem, null);
    render();
  } catch (error) {
    if (error.code === "SIGNED_OUT") return;
    list.setAttribute("aria-busy", "false");
    if (items.length === 0) list.replaceChildren();
    alertIn(
      problem,
      error,
      element("button.button.quiet", { type: "button", onclick: refreshList }, "Try again"),
    );
  }
  schedule();
}

async function readMore() {
  more.disabled = true;
  try {
    const { page, next } = await read(
      `/v1/queries?limit=${PAGE}&cursor=${encodeURIComponent(cursor)}`,
    );
    const known = new Set(items.map((item) => item.query_id));
    items = [...items, ...page.filter((item) => !known.has(item.query_id))];
    cursor = next;
    render();
  } catch (error) {
    if (error.code !== "SIGNED_OUT") alertIn(problem, error);
  } finally {
    more.disabled = false;
  }
}

function schedule() {
  clearTimeout(timer);
  const running = items.some((item) => RUNNING.has(item.status));
  if (running && document.visibilityState === "visible") timer = setTimeout(refreshList, POLL_MS);
}

// Rows that did not change stay as they are, so that the keyboard focus and a screen reader keep
// their place.
function render() {
  list.setAttribute("aria-busy", "false");
  byId("empty").hidden = items.length > 0;
  more.hidden = !cursor;
  const rows = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const focused = list.querySelector("a:focus")?.getAttribute("href");
  list.replaceChildren(...items.map((item) => rows.get(key(item)) ?? row(item)));
  if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

function key(item) {
  return `${item.query_id}:${item.status}`;
}

function row(item) {
  const facts = [timeAgo(item.created_at), item.operation];
  if (item.model_used) facts.push(item.model_used);
  if (item.status === "completed")
    facts.push(latency(item.latency_ms), `confidence ${confidence(item.confidence)}`);
  return element(
    "li.query-row",
    { "data-key": key(item) },
    element("a.query-title", { href: `/queries/${item.query_id}` }, item.query),
    statusChip(item.status),
    element("p.query-facts", {}, ...facts.map((fact) => element("span", {}, fact))),
  );
}

if (requireSession()) {
  const name = current().user?.name;
  if (name) byId("greeting").textContent = `Signed in as ${name}.`;
  more.addEventListener("click", readMore);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") refreshList();
  });
  refreshList();
}
