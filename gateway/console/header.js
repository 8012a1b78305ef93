// What every page has at its top: the theme switch, and with a session the name and "Log out".

import { byId } from "/console/dom.js";
import { current, signOut } from "/console/session.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

function shownTheme() {
  return document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
}

function labelTheme(button) {
  const other = shownTheme() === "dark" ? "light" : "dark";
  button.setAttribute("aria-label", `Switch to the ${other} theme`);
  button.title = `Switch to the ${other} theme`;
}

const themeButton = byId("theme");
labelTheme(themeButton);
dark.addEventListener("change", () => labelTheme(themeButton));
themeButton.addEventListener("click", () => {
  const chosen = shownTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  localStorage.setItem("amaima.theme", chosen);
  labelTheme(themeButton);
});

const session = current();
const logout = byId("logout");
if (logout) {
  logout.hidden = !session;
  logout.addEventListener("click", () => {
    logout.disabled = true;
    signOut();
  });
}

const who = byId("who");
if (who) who.textContent = session?.user?.name ?? "";

const login = byId("sign-in");
if (login) login.hidden = Boolean(session);
for (const link of document.querySelectorAll("[data-needs-session]")) link.hidden = !session;
