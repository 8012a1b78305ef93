// `/docs`: the service's own OpenAPI 3.1 document as a page. Everything shown is read from
// `/openapi.json`.

import { alertIn, byId, element } from "/console/dom.js";
import { api } from "/console/session.js";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
// Examples are made this deep; a schema that contains itself ends there.
const EXAMPLE_DEPTH = 6;

let openapi = null;

async function load() {
  alertIn(byId("problem"), null);
  try {
    openapi = (await api("/openapi.json", { auth: false })).data;
  } catch (error) {
    byId("loading").hidden = true;
    alertIn(
      byId("problem"),
      error,
      element("button.button.quiet", { type: "button", onclick: load }, "Try again"),
    );
    return;
  }
  byId("loading").hidden = true;
  byId("title").textContent = openapi.info?.title ?? "API";
  byId("version").textContent =
    `OpenAPI ${openapi.openapi} · version ${openapi.info?.version ?? "unknown"}`;
  byId("description").replaceChildren(...prose(openapi.info?.description));
  const groups = grouped(operations());
  byId("operations").replaceChildren(...groups.map(groupSection));
  byId("contents").replaceChildren(...groups.map(groupContents));
  byId("reference").hidden = false;
  openTarget();
}

// The object that a `$ref` stands for, and the name to call it by.
function resolve(node) {
  let name = null;
  let target = node;
  for (let steps = 0; target?.$ref && steps < 16; steps += 1) {
    const parts = target.$ref.replace(/^#\//, "").split("/");
    name = decodeURIComponent(parts.at(-1));
    target = parts.reduce(
      (at, part) => at?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")],
      openapi,
    );
  }
  return { name, target: target ?? {} };
}

function operations() {
  return Object.entries(openapi.paths ?? {}).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(
        (one) => resolve(one).target,
      );
      const slug = operation.operationId ?? `${method}${path}`;
      return {
        ...operation,
        method,
        path,
        parameters,
        anchor: slug.replace(/[^A-Za-z0-9]+/g, "-"),
      };
    }),
  );
}

function grouped(all) {
  const order = (openapi.tags ?? []).map((tag) => tag.name);
  const groups = new Map(order.map((name) => [name, []]));
  for (const operation of all) {
    const tag = operation.tags?.[0] ?? "Other";
    groups.set(tag, [...(groups.get(tag) ?? []), operation]);
  }
  return [...groups].filter(([, members]) => members.length > 0);
}

function groupContents([tag, members]) {
  const links = members.map((operation) =>
    element(
      "li",
      {},
      element(
        "a",
        { href: `#${operation.anchor}` },
        method(operation.method),
        element("span", {}, operation.path),
      ),
    ),
  );
  return element(
    "div.contents-group",
    {},
    element("p.eyebrow", {}, tag),
    element("ul", {}, ...links),
  );
}

function groupSection([tag, members]) {
  const about = openapi.tags?.find((one) => one.name === tag)?.description;
  return element(
    "section.group",
    {},
    element("h2", {}, tag),
    ...prose(about),
    ...members.map(operationDetails),
  );
}

// An operation's inside is built when it is first opened: a large document would make a slow page
// otherwise.
function operationDetails(operation) {
  const body = element("div.operation-body");
  const details = element(
    "details.operation",
    {
      id: operation.anchor,
      "data-search":
        `${operation.method} ${operation.path} ${operation.summary ?? ""}`.toLowerCase(),
    },
    element(
      "summary",
      {},
      method(operation.method),
      element("code.path", {}, operation.path),
      element("span.operation-summary", {}, operation.summary ?? ""),
      operation.deprecated ? element("span.chip", {}, "deprecated") : null,
    ),
    body,
  );
  details.addEventListener("toggle", () => {
    if (details.open && body.childElementCount === 0) body.append(...operationBody(operation));
  });
  return details;
}

function operationBody(operation) {
  const request = operation.requestBody ? resolve(operation.requestBody).target : null;
  return [
    ...prose(operation.description),
    access(operation),
    ...parameterTable(operation.parameters),
    ...(request
      ? [
          element("h3", {}, request.required ? "Request body (required)" : "Request body"),
          ...prose(request.description),
          ...contents(request.content),
        ]
      : []),
    element("h3", {}, "Responses"),
    ...Object.entries(operation.responses ?? {}).map(([status, response]) =>
      responseDetails(status, resolve(response).target),
    ),
    element("h3", {}, "Try it"),
    sample("shell", curl(operation, request)),
  ];
}

function access(operation) {
  const schemes = (operation.security ?? openapi.security ?? []).flatMap((one) => Object.keys(one));
  return element(
    "p.fine",
    {},
    schemes.length > 0 ? `Needs: ${schemes.join(" or ")}.` : "Open to everyone.",
  );
}

function parameterTable(parameters) {
  if (parameters.length === 0) return [];
  const rows = parameters.map((parameter) =>
    element(
      "li.property",
      {},
      element(
        "p.property-line",
        {},
        element("code.property-name", {}, parameter.name),
        element("span.type", {}, `${typeName(parameter.schema ?? {})} in ${parameter.in}`),
        parameter.required ? element("span.required", {}, "required") : null,
      ),
      ...prose(parameter.description),
      ...constraints(resolve(parameter.schema ?? {}).target),
    ),
  );
  return [element("h3", {}, "Parameters"), element("ul.properties", {}, ...rows)];
}

function responseDetails(status, response) {
  const inside = [...headerList(response.headers), ...contents(response.content)];
  const summary = element(
    "summary",
    {},
    element("code.status", { "data-class": status[0] }, status),
    element("span", {}, firstLine(response.description)),
  );
  if (inside.length === 0) return element("div.response.bare", {}, ...summary.childNodes);
  return element("details.response", {}, summary, element("div.response-body", {}, ...inside));
}

function headerList(headers) {
  return Object.entries(headers ?? {}).map(([name, header]) => {
    const { target } = resolve(header);
    return element(
      "p.fine",
      {},
      "Header ",
      element("code", {}, name),
      target.description ? `: ${target.description}` : "",
    );
  });
}

function contents(content) {
  return Object.entries(content ?? {}).flatMap(([type, media]) => [
    element("p.fine", {}, element("code", {}, type)),
    ...(media.schema
      ? [element("p.type", {}, typeName(media.schema)), schemaTree(media.schema, [])]
      : []),
    ...examples(media).map(([label, value]) =>
      sample(label, typeof value === "string" ? value : JSON.stringify(value, null, 2)),
    ),
  ]);
}

function examples(media) {
  const named = Object.entries(media.examples ?? {}).map(([name, one]) => {
    const { target } = resolve(one);
    return [target.summary ?? name, target.value];
  });
  if (named.length > 0) return named;
  if (media.example !== undefined) return [["Example", media.example]];
  const made = example(media.schema ?? {}, 0);
  return made === undefined ? [] : [["Example", made]];
}

// A schema as a tree: its properties, array items and alternatives. `above` holds the names on the
// way here, so that a schema that contains itself is named instead of opened.
function schemaTree(schema, above) {
  const { name, target } = resolve(schema);
  if (name && above.includes(name))
    return element("p.fine", {}, "again ", element("code", {}, name));
  const path = name ? [...above, name] : above;
  const parts = [...prose(target.description), ...constraints(target)];
  const { properties, required } = fields(target);
  const entries = Object.entries(properties);
  if (entries.length > 0) {
    parts.push(
      element(
        "ul.properties",
        {},
        ...entries.map(([key, value]) => property(key, value, required.has(key), path)),
      ),
    );
  }
  if (target.items)
    parts.push(
      element("p.fine", {}, `Each element: ${typeName(target.items)}`),
      schemaTree(target.items, path),
    );
  if (typeof target.additionalProperties === "object") {
    parts.push(
      element("p.fine", {}, `Each further key: ${typeName(target.additionalProperties)}`),
      schemaTree(target.additionalProperties, path),
    );
  }
  for (const choice of target.oneOf ?? target.anyOf ?? []) {
    if (resolve(choice).target.type !== "null")
      parts.push(
        element(
          "div.choice",
          {},
          element("p.type", {}, typeName(choice)),
          schemaTree(choice, path),
        ),
      );
  }
  return element("div.schema", {}, ...parts);
}

// Properties and required names, those of every `allOf` part included.
function fields(target) {
  const parts = (target.allOf ?? []).map((part) => fields(resolve(part).target));
  return {
    properties: Object.assign({}, ...parts.map((part) => part.properties), target.properties),
    required: new Set([...parts.flatMap((part) => [...part.required]), ...(target.required ?? [])]),
  };
}

function property(name, schema, required, above) {
  const { name: schemaName, target } = resolve(schema);
  const line = element(
    "p.property-line",
    {},
    element("code.property-name", {}, name),
    element("span.type", {}, typeName(schema)),
    required ? element("span.required", {}, "required") : null,
  );
  const again = schemaName && above.includes(schemaName);
  if (!nested(target) || again) {
    return element(
      "li.property",
      {},
      line,
      ...prose(schema.description ?? target.description),
      ...constraints(target),
    );
  }
  return element(
    "li.property",
    {},
    element("details", {}, element("summary", {}, ...line.childNodes), schemaTree(schema, above)),
  );
}

// Whether there is more to see inside than a plain type.
function nested(target) {
  if (target.properties || target.allOf) return true;
  if (target.items) return nested(resolve(target.items).target);
  if (typeof target.additionalProperties === "object")
    return nested(resolve(target.additionalProperties).target);
  return (target.oneOf ?? target.anyOf ?? []).some((choice) => nested(resolve(choice).target));
}

function typeName(schema) {
  const { name, target } = resolve(schema);
  if (name) return name;
  if (target.const !== undefined) return JSON.stringify(target.const);
  const choices = target.oneOf ?? target.anyOf;
  if (choices) return choices.map(typeName).join(" | ");
  if (target.allOf) return target.allOf.map(typeName).join(" & ");
  const types = [
    target.type ?? (target.properties ? "object" : target.enum ? "string" : "any"),
  ].flat();
  return types
    .map((type) => (type === "array" ? `${typeName(target.items ?? {})}[]` : type))
    .map((type) =>
      target.format && (type === "string" || type === "integer" || type === "number")
        ? `${type} (${target.format})`
        : type,
    )
    .join(" | ");
}

function constraints(target) {
  const known = [
    ["minimum", "at least"],
    ["exclusiveMinimum", "more than"],
    ["maximum", "at most"],
    ["exclusiveMaximum", "less than"],
    ["minLength", "characters, at least"],
    ["maxLength", "characters, at most"],
    ["minItems", "elements, at least"],
    ["maxItems", "elements, at most"],
    ["pattern", "pattern"],
  ];
  const words = known
    .filter(([key]) => target[key] !== undefined)
    .map(([key, label]) => `${label} ${target[key]}`);
  if (target.default !== undefined) words.push(`default ${JSON.stringify(target.default)}`);
  const lines = words.length > 0 ? [element("p.fine", {}, words.join(" · "))] : [];
  if (target.enum)
    lines.push(
      element(
        "p.fine.values",
        {},
        ...target.enum.map((value) => element("code", {}, JSON.stringify(value))),
      ),
    );
  return lines;
}

// A value that fits a schema, for documents that give no example of their own.
function example(schema, depth) {
  const { target } = resolve(schema);
  if (target.example !== undefined) return target.example;
  if (target.examples?.length) return target.examples[0];
  if (target.default !== undefined && target.default !== null) return target.default;
  if (target.const !== undefined) return target.const;
  if (target.enum) return target.enum[0];
  if (depth >= EXAMPLE_DEPTH) return null;
  const choice = (target.oneOf ?? target.anyOf ?? []).find(
    (one) => resolve(one).target.type !== "null",
  );
  if (choice) return example(choice, depth + 1);
  const { properties } = fields(target);
  if (Object.keys(properties).length > 0) {
    return Object.fromEntries(
      Object.entries(properties).map(([key, value]) => [key, example(value, depth + 1)]),
    );
  }
  return plainExample(
    target,
    [target.type].flat().find((type) => type !== "null"),
    depth,
  );
}

function plainExample(target, type, depth) {
  if (type === "array") return target.items ? [example(target.items, depth + 1)] : [];
  if (type === "object") return {};
  if (type === "integer" || type === "number") return target.minimum ?? 0;
  if (type === "boolean") return true;
  if (type !== "string") return undefined;
  if (target.format === "uuid") return "3f2c8a52-6f0e-4c0b-9a3d-5d1c7e9b2f10";
  if (target.format === "date-time") return "2025-03-04T09:15:00.000Z";
  if (target.format === "email") return "mia@example.com";
  return "string";
}

function curl(operation, request) {
  const query = operation.parameters
    .filter((one) => one.in === "query" && one.required)
    .map((one) => `${one.name}=…`);
  const url = `${location.origin}${operation.path}${query.length > 0 ? `?${query.join("&")}` : ""}`;
  const lines = [
    `curl${operation.method === "get" ? "" : ` -X ${operation.method.toUpperCase()}`} ${quoted(url)}`,
  ];
  if ((operation.security ?? openapi.security ?? []).some((one) => Object.keys(one).length > 0))
    lines.push('-H "Authorization: Bearer $TOKEN"');
  const json = request?.content?.["application/json"];
  if (json) {
    lines.push(
      "-H 'Content-Type: application/json'",
      `-d ${quoted(JSON.stringify(examples(json)[0]?.[1] ?? {}))}`,
    );
  }
  return lines.join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function sample(label, text) {
  const copy = element(
    "button.button.quiet.small",
    { type: "button", hidden: !navigator.clipboard },
    "Copy",
  );
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  return element(
    "figure.sample",
    {},
    element("figcaption", {}, element("span", {}, label), copy),
    element("pre", { tabindex: "0" }, element("code", {}, text)),
  );
}

function method(name) {
  return element("span.method", { "data-method": name }, name.toUpperCase());
}

function firstLine(text) {
  return (text ?? "").split("\n")[0];
}

// Paragraphs, with `code` set apart. Other markup stays as it was written.
function prose(text) {
  if (!text) return [];
  return text
    .trim()
    .split(/\n\s*\n/)
    .map((paragraph) =>
      element(
        "p.prose",
        {},
        ...paragraph
          .split(/`([^`]+)`/)
          .map((piece, index) => (index % 2 === 1 ? element("code", {}, piece) : piece)),
      ),
    );
}

function filter(words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const group of document.querySelectorAll(".group")) {
    let any = false;
    for (const operation of group.querySelectorAll(".operation")) {
      operation.hidden = !wanted.every((word) => operation.dataset.search.includes(word));
      any ||= !operation.hidden;
      shown += operation.hidden ? 0 : 1;
    }
    group.hidden = !any;
  }
  byId("none").hidden = shown > 0;
}

function openTarget() {
  const target = location.hash ? byId(decodeURIComponent(location.hash.slice(1))) : null;
  if (!(target instanceof HTMLDetailsElement)) return;
  target.open = true;
  target.scrollIntoView();
  target.querySelector("summary").focus({ preventScroll: true });
}

byId("filter").addEventListener("input", (event) => filter(event.currentTarget.value));
addEventListener("hashchange", openTarget);
load();
