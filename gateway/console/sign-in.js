// The forms of /login and /register. Both post their inputs as JSON, get the same token body and
// lead on.

import { alertIn, byId, clearFormError, showFormError } from "/console/dom.js";
import { api, current, keep, nextPage } from "/console/session.js";

const form = byId("form");
const problem = byId("problem");
const button = form.querySelector("button[type=submit]");
const query = new URLSearchParams(location.search);

// Someone on the way to a page keeps that way when changing between the two forms.
const other = byId("other");
if (query.has("next"))
  other.href = `${other.getAttribute("href")}?next=${encodeURIComponent(query.get("next"))}`;

if (current()) {
  location.replace(nextPage());
} else if (query.get("reason") === "expired") {
  byId("notice").hidden = false;
}

byId("reveal").addEventListener("click", (event) => {
  const hidden = form.elements.password.type === "password";
  form.elements.password.type = hidden ? "text" : "password";
  event.currentTarget.textContent = hidden ? "Hide" : "Show";
  event.currentTarget.setAttribute(
    "aria-label",
    hidden ? "Hide the password" : "Show the password",
  );
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearFormError(form, problem);
  button.disabled = true;
  form.setAttribute("aria-busy", "true");
  try {
    const { data } = await api(form.dataset.call, { method: "POST", auth: false, body: inputs() });
    keep(data);
    location.replace(nextPage());
  } catch (error) {
    if (error.code === "AUTH_USER_EXISTS") {
      error.details = [{ field: "email", message: "An account with this e-mail already exists." }];
    }
    if (error.name === "ApiError") showFormError(form, problem, error);
    else alertIn(problem, "This browser does not let the page store its session.");
  } finally {
    button.disabled = false;
    form.removeAttribute("aria-busy");
  }
});

// An empty optional input is left out, so that the server's default applies.
function inputs() {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
}
