// Draws /openapi.json, and sends what it describes. Everything that comes from it is set as text, never as markup.
const make = (tag, text, ...kinds) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  element.classList.add(...kinds);
  return element;
};

// Text in which `backticks` mean code.
const prose = (tag, text, ...kinds) => {
  const element = make(tag, null, ...kinds);
  (text || "").split("`").forEach((piece, place) => element.append(place % 2 ? make("code", piece) : piece));
  return element;
};

const rowOf = (tag, cells) => {
  const row = make("tr");
  for (const cell of cells) {
    const box = cell instanceof Node ? make(tag) : prose(tag, cell);
    if (cell instanceof Node) box.append(cell);
    row.append(box);
  }
  return row;
};

const table = (heads, rows) => {
  const element = make("table");
  element.append(rowOf("th", heads), ...rows.map((row) => rowOf("td", row)));
  return element;
};

// Drawn when it is opened for the first time.
const folded = (summary, draw) => {
  const details = make("details");
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(draw());
  });
  return details;
};

let schemas = {};
const named = (schema) => (schema && schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema) || {};
const eitherOf = (schema) => schema.anyOf || schema.oneOf;

// `Page_Dataset_` is FastAPI's name for a page of them, and `a__b__Name` one for a name that two modules have.
const nameOf = (ref) => ref.split("/").pop().replace(/^\w+?__(?:\w+?__)*/, "").replace(/_([^_]\w*)_$/, " of $1");

const typeOf = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return named(schema).enum ? typeOf(named(schema)) : nameOf(schema.$ref);
  if (eitherOf(schema)) return eitherOf(schema).map(typeOf).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeOf(schema.items) || "any"}`;
  return schema.format === "binary" ? "bytes" : schema.type || "any";
};

// The schemas with fields inside of this one: what can be opened below a field.
const objectsIn = (schema) => {
  if (!schema) return [];
  if (eitherOf(schema)) return eitherOf(schema).flatMap(objectsIn);
  if (schema.type === "array") return objectsIn(schema.items);
  return named(schema).properties ? [schema] : [];
};

const typeCell = (schema) => {
  const inner = objectsIn(schema);
  if (!inner.length) return typeOf(schema);
  return folded(make("summary", typeOf(schema)), () => {
    const box = make("div");
    box.append(...inner.map(fieldsOf));
    return box;
  });
};

const said = (field) => {
  // The defaults of an object stand at its own fields.
  const standard = (field.default ?? {}) instanceof Object ? "" : ` Default: \`${JSON.stringify(field.default)}\`.`;
  return `${field.description || ""}${standard}`.trim();
};

const fieldsOf = (schema) => {
  const object = named(schema), required = new Set(object.required || []);
  return table(["field (* needed)", "type", "what"], Object.entries(object.properties || {}).map(([name, field]) => [
    name + (required.has(name) ? " *" : ""), typeCell(field), said(field)]));
};

const schemaBox = (schema) => {
  const box = make("div");
  box.append(...objectsIn(schema).map(fieldsOf));
  return box;
};

// Lists of numbers on one line: a picture's 784 are no 784 lines.
const pretty = (value) => {
  const kept = [];
  const text = JSON.stringify(value, (_, each) => {
    if (!Array.isArray(each) || each.some((item) => typeof item === "object")) return each;
    return `\u0001${kept.push(JSON.stringify(each)) - 1}\u0001`;
  }, 2);
  return text.replace(/"\\u0001(\d+)\\u0001"/g, (_, place) => kept[place]);
};

const bodiesOf = (operation) => Object.entries((operation.requestBody || {}).content || {}).map(([kind, content]) => {
  const examples = [...Object.values(content.examples || {}).map((each) => each.value), content.example];
  return { kind, schema: content.schema, examples: examples.filter((each) => each !== undefined) };
});

const keyless = (operation) => operation.security && !operation.security.length;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const curlOf = (method, path, operation) => {
  const [body] = bodiesOf(operation), parts = [`curl -X ${method} ${quoted(location.origin + path)}`];
  if (!keyless(operation)) parts.push('-H "X-API-Key: $LUTHIER_API_KEY"');
  if (!body) return parts.join(" ");
  if (body.kind === "multipart/form-data") return [...parts, "-F file=@FILE"].join(" ");
  const text = JSON.stringify(body.examples[0]);
  const small = body.kind === "application/json" && text && text.length < 400;
  return [...parts, `-H 'Content-Type: ${body.kind}'`, small ? `-d ${quoted(text)}` : "--data-binary @FILE"].join(" ");
};

const inputFor = (parameter) => {
  const label = make("label"), input = make("input");
  input.name = parameter.name;
  input.dataset.in = parameter.in;
  input.required = Boolean(parameter.required);
  const { default: standard, examples } = parameter.schema || {};
  input.placeholder = String(standard ?? (examples || [""])[0]);
  label.append(parameter.name + (parameter.required ? " *" : ""), input);
  return label;
};

const bodyInput = (body) => {
  if (body.kind !== "application/json") {
    const file = make("input");
    file.type = "file";
    return file;
  }
  const area = make("textarea");
  area.value = body.examples.length ? pretty(body.examples[0]) : "";
  area.rows = Math.min(14, area.value.split("\n").length + 1);
  return area;
};

const bodySent = (body, input) => {
  if (input.type !== "file") return input.value;
  if (body.kind !== "multipart/form-data") return input.files[0];
  const form = new FormData();
  if (input.files[0]) form.append("file", input.files[0]);
  return form;
};

const requestOf = (method, path, form, body, input) => {
  const query = new URLSearchParams(), headers = {};
  let route = path;
  for (const { name, value, dataset } of form.querySelectorAll("input[data-in]")) {
    if (dataset.in === "path") route = route.replace(`{${name}}`, encodeURIComponent(value));
    else if (value && dataset.in === "query") query.append(name, value);
    else if (value && dataset.in === "header") headers[name] = value;
  }
  const key = document.getElementById("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body && body.kind !== "multipart/form-data") headers["Content-Type"] = body.kind;
  const url = query.size ? `${route}?${query}` : route;
  return [url, { method, headers, body: body ? bodySent(body, input) : undefined, credentials: "omit" }];
};

// The beginning of an answer; an event stream would go on for as long as its job.
const readSome = async (answer) => {
  if (!answer.body) return "";
  const reader = answer.body.getReader(), decoder = new TextDecoder();
  const silent = new Promise((end) => { setTimeout(() => end({ done: true }), 5000); });
  let text = "";
  while (text.length < 20000) {
    const { done, value } = await Promise.race([reader.read(), silent]);
    if (done) break;
    text += decoder.decode(value, { stream: true });
  }
  reader.cancel();
  try { return pretty(JSON.parse(text)); } catch { return text; }
};

const tryIt = (method, path, operation, parameters) => {
  const form = make("form", null, "try"), shown = make("pre", null, "answer"), [body] = bodiesOf(operation);
  const input = body ? bodyInput(body) : null;
  shown.hidden = true;
  form.append(...parameters.map(inputFor), ...(input ? [input] : []), make("button", "Send"), shown);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    shown.hidden = false;
    shown.textContent = "…";
    try {
      const answer = await fetch(...requestOf(method, path, form, body, input));
      shown.textContent = `${answer.status} ${answer.statusText}\n${await readSome(answer)}`;
    } catch (error) {
      shown.textContent = `It could not be sent: ${error.message}`;
    }
  });
  return form;
};

const answersOf = (operation) => {
  const box = make("div");
  for (const [status, answer] of Object.entries(operation.responses || {})) {
    const schema = Object.values(answer.content || {}).map((each) => each.schema)[0];
    const fine = status.startsWith("2") && objectsIn(schema).length;
    const line = make("div", null, "status");
    line.append(make("b", status), ...(answer.description || "").split("\n\n").map((each) => prose("p", each)));
    box.append(line);
    if (fine) box.append(folded(make("summary", `fields of ${typeOf(schema)}`), () => schemaBox(schema)));
  }
  return box;
};

const bodyOf = (method, path, operation) => {
  const box = make("div", null, "body");
  box.append(...(operation.description || "").split("\n\n").map((each) => prose("p", each)));
  const parameters = (operation.parameters || []).filter((parameter) => parameter.name.toLowerCase() !== "authorization");
  if (parameters.length) {
    box.append(make("h4", "Parameters"), table(["name (* needed)", "in", "type", "what"], parameters.map((parameter) => [
      parameter.name + (parameter.required ? " *" : ""), parameter.in, typeOf(parameter.schema),
      said({ ...parameter.schema, description: parameter.description })])));
  }
  if (operation.requestBody && operation.requestBody.description) box.append(prose("p", operation.requestBody.description));
  const bodies = bodiesOf(operation), same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  bodies.forEach((body, place) => {
    const first = bodies.findIndex((each) => same(each.schema, body.schema));
    const fields = first < place ? make("p", `The same as ${bodies[first].kind}.`) : schemaBox(body.schema);
    box.append(make("h4", `Body: ${body.kind}`), fields);
    if (first < place && same(bodies[first].examples, body.examples)) return;
    for (const example of body.examples) box.append(make("pre", typeof example === "string" ? example : pretty(example)));
  });
  box.append(make("h4", "From a shell"), make("pre", curlOf(method, path, operation)));
  box.append(make("h4", "Try it"), tryIt(method, path, operation, parameters), make("h4", "Answers"), answersOf(operation));
  return box;
};

const operationOf = (method, path, operation) => {
  const summary = make("summary"), name = method.toUpperCase(), [what] = (operation.description || "").split("\n");
  summary.append(make("span", name, "method", name), make("span", path, "path"), prose("span", what, "what"));
  const details = folded(summary, () => bodyOf(name, path, operation));
  details.classList.add("operation");
  details.dataset.text = `${method} ${path} ${operation.summary} ${what} ${operation.tags || ""}`.toLowerCase();
  return details;
};

const sectionOf = (tag, about, operations) => {
  const section = make("section"), link = make("a", tag);
  section.id = tag.replaceAll(/\W+/g, "-");
  link.href = `#${section.id}`;
  document.getElementById("sections").append(link, " ");
  section.append(make("h2", tag), prose("p", about, "about"), ...operations);
  return section;
};

const draw = (openapi) => {
  ({ schemas } = openapi.components);
  document.getElementById("about").replaceWith(prose("p", openapi.info.description));
  const groups = new Map((openapi.tags || []).map((tag) => [tag.name, { about: tag.description, operations: [] }]));
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag] = operation.tags || ["other"];
      if (!groups.has(tag)) groups.set(tag, { operations: [] });
      groups.get(tag).operations.push(operationOf(method, path, operation));
    }
  }
  const drawn = [...groups].filter(([, group]) => group.operations.length);
  document.getElementById("operations").replaceChildren(...drawn.map(([tag, group]) => sectionOf(tag, group.about, group.operations)));
};

document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const section of document.querySelectorAll("section")) {
    const operations = [...section.querySelectorAll("details.operation")];
    for (const details of operations) details.hidden = !details.dataset.text.includes(wanted);
    section.hidden = operations.every((details) => details.hidden);
  }
});

document.getElementById("who").addEventListener("submit", async (event) => {
  event.preventDefault();
  const known = document.getElementById("known");
  const headers = { Authorization: `Bearer ${document.getElementById("key").value.trim()}` };
  try {
    const answer = await fetch("api/me", { headers, credentials: "omit" });
    const body = await answer.json();
    known.textContent = answer.ok ? `${body.email}, ${body.role} of ${body.tenant_id}` : body.error.message;
  } catch (error) {
    known.textContent = `It could not be sent: ${error.message}`;
  }
});

fetch("openapi.json").then((answer) => answer.json()).then(draw).catch((error) => {
  document.getElementById("operations").replaceChildren(make("p", `openapi.json could not be read: ${error}`));
});
