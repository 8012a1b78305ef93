// Building and changing the page. Text reaches it through text nodes only, never as markup.

// `element("a.button", { href: "/query" }, "New Query")`: tag and classes, attributes, then
// children. Attributes that are null or false are left out; children that are null are skipped.
export function element(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const node = document.createElement(tag);
  if (classes.length > 0) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

// A notice in a `role="alert"` region, which must already stand in the page to be announced; null
// clears it.
export function alertIn(region, error, action = null) {
  region.replaceChildren();
  region.hidden = !error;
  if (!error) return;
  const message = typeof error === "string" ? error : error.message;
  region.append(element("p", {}, message));
  if (error.retryAfter) {
    region.append(element("p.fine", {}, `Try again in ${error.retryAfter} s.`));
  }
  if (error.requestId) {
    region.append(element("p.fine", {}, "Request ", element("code", {}, error.requestId)));
  }
  if (action) region.append(action);
}

// Sets the messages of a refused form: beside the inputs that the error names, the rest in the
// alert region.
export function showFormError(form, region, error) {
  clearFormError(form, region);
  const elsewhere = [];
  let first = null;
  for (const { field, message } of error.details ?? []) {
    const input = form.elements.namedItem(field);
    if (input instanceof HTMLElement) {
      fieldError(input, message);
      first ??= input;
    } else {
      elsewhere.push(field ? `${field}: ${message}` : message);
    }
  }
  if (first) {
    first.focus();
    if (elsewhere.length > 0) alertIn(region, elsewhere.join(" "));
  } else {
    alertIn(region, error);
  }
}

export function clearFormError(form, region) {
  alertIn(region, null);
  for (const input of form.elements) {
    if (input.name) fieldError(input, null);
  }
}

// The message under one input; it stands in `<p id="NAME-error">`.
export function fieldError(input, message) {
  const place = byId(`${input.name}-error`);
  if (!place) return;
  place.textContent = message ?? "";
  place.hidden = !message;
  if (message) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

// A chip with a query's status, in the words of the interface.
export function statusChip(status) {
  return element("span.chip", { "data-status": status }, status);
}

export function latency(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "not measured";
  if (milliseconds < 1000) return `${milliseconds} ms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 1)} s`;
}

export function confidence(value) {
  return value === null || value === undefined ? "not given" : value.toFixed(2);
}

const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const STEPS = [
  ["second", 60],
  ["minute", 60],
  ["hour", 24],
  ["day", 7],
];

// `<time>` that reads "3 minutes ago", with the exact time as its title.
export function timeAgo(timestamp) {
  const then = new Date(timestamp);
  return element("time", { datetime: timestamp, title: then.toLocaleString() }, relative(then));
}

function relative(then) {
  let amount = Math.min(0, Math.round((then.getTime() - Date.now()) / 1000));
  if (amount > -5) return "just now";
  for (const [unit, size] of STEPS) {
    if (Math.abs(amount) < size) return RELATIVE.format(amount, unit);
    amount = Math.trunc(amount / size);
  }
  return then.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}
