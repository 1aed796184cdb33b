// As much of a document as the page's script uses: node runs the script over it and prints what the moves give.
"use strict";
const given = JSON.parse(require("node:fs").readFileSync(process.argv[2], "utf8"));

class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], parent: null, words: "", attributes: {}, listeners: {}, className: "", value: "" });
    this.style = { setProperty() {} };
  }
  get textContent() { return this.words + this.children.map((child) => child.textContent).join(""); }
  set textContent(text) { this.replaceChildren(); this.words = String(text); }
  get isConnected() { return this === body || Boolean(this.parent?.isConnected); }
  get nextElementSibling() { return this.parent.children[this.parent.children.indexOf(this) + 1] ?? null; }
  setAttribute(name, value) { this.attributes[name] = value; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  remove() {
    if (this.parent) this.parent.children.splice(this.parent.children.indexOf(this), 1);
    this.parent = null;
  }
  append(...added) {
    for (const child of added) {
      if (!(child instanceof Element)) throw new TypeError(`${child} is no element`);
      child.remove();
      child.parent = this;
      this.children.push(child);
    }
  }
  after(...added) {
    const { parent } = this, tail = parent.children.splice(parent.children.indexOf(this) + 1);
    parent.append(...added);
    parent.children.push(...tail);
  }
  replaceChildren(...added) {
    for (const child of this.children) child.parent = null;
    this.children = [];
    this.words = "";
    this.append(...added);
  }
  matches(selector) {
    const role = /^\[role=(\w+)\]$/.exec(selector);
    return selector.split(", ").some((one) => one === this.tag || this.className.split(" ").includes(one.slice(1))) ||
      Boolean(role && this.attributes.role === role[1]);
  }
  closest(selector) { return this.matches(selector) ? this : this.parent?.closest(selector) ?? null; }
  all(selector) { return this.children.flatMap((child) => [...(child.matches(selector) ? [child] : []), ...child.all(selector)]); }
  addEventListener(kind, heard) { (this.listeners[kind] ??= []).push(heard); }
  dispatch(kind, event) {
    for (let at = this; at; at = at.parent) for (const heard of at.listeners[kind] ?? []) heard(event);
  }
  focus() { document.activeElement = this; }
  scrollIntoView() {}
}

const body = new Element("body");
const byName = Object.fromEntries(Object.entries(given.ids).map(([id, tag]) => [id, Object.assign(new Element(tag), { id })]));
body.append(...Object.values(byName));
byName.data.textContent = given.data;
const document = {
  activeElement: body,
  createElement: (tag) => new Element(tag),
  createElementNS: (_, tag) => new Element(tag),
  getElementById: (id) => byName[id],
  addEventListener: (kind, heard) => body.addEventListener(kind, heard),
};

const moves = `
const rows = () => byId("tree").children.map((row) => ({
  text: (row.all(".text")[0] ?? row).textContent, level: levelOf(row), won: row.matches(".won"),
  status: Object.keys(MARKS).find((status) => row.matches("." + status)),
  marked: row.all("mark")[0]?.textContent,
}));
const click = (target) => target.dispatch("click", { target });
const chip = (status) => byId("chips").children.find((one) => one.value === status);
const type = (text) => { byId("search").value = text; byId("search").dispatch("input", { target: byId("search") }); };
const key = (name) => { const target = current.row; target.dispatch("keydown", { key: name, target, preventDefault() {} }); };
`;
const found = new Function("document", `${given.script}\n${moves}\nreturn (${given.moves});`)(document);
process.stdout.write(JSON.stringify(found));
