// `/queries/{id}`: one query shown again. What has ended is read from the store, what still runs is
// followed live.

import { AnswerView } from "/console/answer.js";
import { alertIn, byId, element, timeAgo } from "/console/dom.js";
import { api, requireSession } from "/console/session.js";

const problem = byId("problem");

async function load() {
  const queryId = decodeURIComponent(location.pathname.split("/").pop());
  alertIn(problem, null);
  let item;
  try {
    item = (await api(`/v1/queries/${encodeURIComponent(queryId)}`)).data;
  } catch (error) {
    byId("loading").hidden = true;
    if (error.code === "SIGNED_OUT") return;
    if (error.status === 404) {
      byId("missing").hidden = false;
    } else {
      alertIn(
        problem,
        error,
        element("button.button.quiet", { type: "button", onclick: load }, "Try again"),
      );
    }
    return;
  }
  byId("loading").hidden = true;
  byId("question").textContent = item.query;
  byId("asked").replaceChildren("Asked ", timeAgo(item.created_at), ` · ${item.operation}`);
  byId("query").hidden = false;
  new AnswerView(byId("result"), problem).show(item);
}

if (requireSession()) load();
