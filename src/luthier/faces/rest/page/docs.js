// Draws /openapi.json. Everything that comes from it is set as text, never as markup.
const make = (tag, text, ...kinds) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  element.classList.add(...kinds);
  return element;
};

const table = (heads, rows) => {
  const element = make("table");
  element.append(rowOf("th", heads), ...rows.map((row) => rowOf("td", row)));
  return element;
};

const rowOf = (tag, cells) => {
  const row = make("tr");
  row.append(...cells.map((cell) => make(tag, cell)));
  return row;
};

const typeOf = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.const !== undefined ? JSON.stringify(schema.const) : schema.type || "any";
};

const fieldsOf = (schema, all) => {
  const named = schema && schema.$ref ? all[typeOf(schema)] : schema;
  const required = new Set((named && named.required) || []);
  return Object.entries((named && named.properties) || {}).map(([name, field]) => [
    name + (required.has(name) ? " *" : ""), typeOf(field), field.description || "",
  ]);
};

const bodyOf = (operation, all) => {
  const box = make("div", null, "body");
  box.append(make("p", operation.description));
  const parameters = (operation.parameters || []).filter((parameter) => parameter.name !== "authorization");
  if (parameters.length) {
    box.append(make("h4", "Parameters"), table(["name", "in", "type", "what"], parameters.map((parameter) => [
      parameter.name + (parameter.required ? " *" : ""), parameter.in, typeOf(parameter.schema), parameter.description || "",
    ])));
  }
  for (const [kind, content] of Object.entries((operation.requestBody || {}).content || {})) {
    box.append(make("h4", `Body: ${kind}`));
    const fields = fieldsOf(content.schema, all);
    if (fields.length) box.append(table(["field", "type", "what"], fields));
    for (const example of Object.values(content.examples || {})) box.append(make("pre", JSON.stringify(example.value, null, 2)));
  }
  box.append(make("h4", "Answers"), table(["status", "what"], Object.entries(operation.responses || {}).map(
    ([status, answer]) => [status, answer.description || ""])));
  return box;
};

const draw = (openapi) => {
  document.getElementById("about").textContent = openapi.info.description || "";
  const main = document.getElementById("operations");
  main.replaceChildren();
  const groups = new Map();
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const details = make("details");
      const summary = make("summary");
      const name = method.toUpperCase();
      summary.append(make("span", name, "method", name), make("span", path, "path"), make("span", operation.summary, "what"));
      details.append(summary);
      details.addEventListener("toggle", () => {
        if (details.open && details.childElementCount === 1) details.append(bodyOf(operation, openapi.components.schemas));
      });
      details.dataset.text = `${method} ${path} ${operation.summary} ${operation.tags || ""}`.toLowerCase();
      const tag = (operation.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(details);
    }
  }
  for (const [tag, operations] of [...groups].sort(([one], [other]) => one.localeCompare(other))) {
    const section = make("section");
    section.append(make("h2", tag), ...operations);
    main.append(section);
  }
};

document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const details of document.querySelectorAll("details")) details.hidden = !details.dataset.text.includes(wanted);
});

fetch("openapi.json").then((answer) => answer.json()).then(draw).catch((error) => {
  document.getElementById("operations").replaceChildren(make("p", `openapi.json could not be read: ${error}`));
});
