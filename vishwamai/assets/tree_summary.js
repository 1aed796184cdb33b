// What stands above the tree: the answer, its steps, the cost of each level, and the statuses to choose from.

function head() {
  const { answer, verified, method, tokens, calls, seconds: took, stopped, agreement, samples } = trace.result;
  byId("title").textContent = document.title = trace.problem || "A problem without words";
  const line = byId("answer"), checked = { true: "checked and right", false: "checked and not right" };
  if (said(answer) === "") line.replaceChildren(el("span", "no", "No answer was found."));
  else {
    const judged = el("span", verified === false ? "no" : "", ` (${checked[verified] ?? "not checked"})`);
    line.replaceChildren(el("b", "", said(answer)), judged);
  }
  byId("figures").replaceChildren();
  const figures = [["method", said(method) || trace.method], ["thoughts", number(trace.thoughts.length)]];
  figures.push(["tokens", number(tokens)], ["calls", number(calls)], ["time", seconds(took)]);
  figures.push(["stopped by", said(stopped)]);
  const voted = verified == null && typeof agreement === "number" && samples?.length > 1;
  figures.push(["samples that agree", voted ? `${number(agreement)} of ${number(samples.length)}` : ""]);
  for (const entry of figures) if (entry[1] !== "") byId("figures").append(pairs(el("div"), [entry]));
}

function steps() {
  byId("steps").replaceChildren();
  for (const node of winning.slice(1)) {
    const item = el("li"), button = el("button", "", "");
    button.type = "button";
    button.append(el("span", "text", node.thought.text || "(no words)"));
    button.addEventListener("click", () => goTo(node));
    item.append(button);
    byId("steps").append(item);
  }
  byId("way").hidden = byId("to-answer").hidden = winning.length < 2;
}

// A level's seconds are those that passed before each of its thoughts was noted, since the one noted before it.
function levels() {
  const counts = ["thoughts", "kept", "wrong", "repeats", "pruned", "answers", "tokens", "seconds"];
  const table = [], zeros = Object.fromEntries(counts.map((name) => [name, 0]));
  const columns = { kept: "kept", expanded: "kept", wrong: "wrong", repeat: "repeats", pruned: "pruned" };
  let before = 0;
  for (const { path, status, tokens, seconds: now } of trace.thoughts) {
    const row = (table[path.length] ??= { level: path.length, ...zeros });
    row.thoughts++;
    if (status === "answer" || status === "refuted") row.answers++;
    if (Object.hasOwn(columns, status ?? "")) row[columns[status]]++;
    row.tokens += amount(tokens);
    row.seconds += Math.max(0, amount(now) - before);
    before = Math.max(before, amount(now));
  }
  return table.filter((row) => row && (row.level || row.tokens));
}

function levelTable() {
  const rows = levels();
  byId("costs").hidden = !rows.length;
  const names = Object.keys(rows[0] ?? {}), top = el("tr");
  for (const name of names) {
    const cell = el("th", "", name);
    set(cell, { scope: "col" });
    top.append(cell);
  }
  byId("levels").replaceChildren(top);
  for (const row of rows) {
    const line = el("tr"), most = (name) => Math.max(...rows.map((other) => other[name])) || 1;
    for (const name of names) {
      const cell = el(name === "level" ? "th" : "td", "", number(row[name], name === "seconds" ? 2 : 0));
      if (name === "level") set(cell, { scope: "row" });
      if (["thoughts", "tokens", "seconds"].includes(name)) cell.append(bar(row[name] / most(name)));
      line.append(cell);
    }
    byId("levels").append(line);
  }
}

function chips() {
  byId("chips").replaceChildren();
  for (const status of Object.keys(MARKS)) {
    const many = trace.thoughts.filter((thought) => (thought.status ?? "open") === status).length;
    if (!many) continue;
    const chip = el("button", ""), mark = el("span", status);
    chip.type = "button";
    chip.value = status;
    mark.append(icon(MARKS[status]));
    chip.append(mark, el("span", "", status), el("span", "count", number(many)));
    chip.addEventListener("click", () => { only.delete(status) || only.add(status); sift(); });
    byId("chips").append(chip);
  }
}
