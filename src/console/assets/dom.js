// A small virtual DOM: views say what there should be, `patch` changes only what differs.
// Data becomes text nodes and a few known attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "circle", "polyline", "rect", "line", "g"]);
const ATTRIBUTES = new Set([
  "class", "id", "role", "title", "type", "tabindex", "for", "placeholder", "autocomplete", "spellcheck",
  "scope", "colspan", "name", "rows", "lang", "open", "d", "points", "viewBox", "width", "height", "cx", "cy", "r",
  "x", "y", "rx", "x1", "x2", "y1", "y2", "preserveAspectRatio", "focusable", "disabled", "required",
  "maxlength", "datetime", "autocapitalize", "dir",
]);
/** Longest text shown in one place; what is longer has a page of its own or is cut with its length. */
const MAX_TEXT = 240;

// Control characters and those that turn the direction of writing: shown by number, so that no
// name can look like another one or reorder what stands beside it.
const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\uffff]/g;

/** Text as it is safe to look at. */
function clean(text, max = MAX_TEXT) {
  let shown = String(text);
  const whole = shown.length;
  if (whole > max) {
    shown = shown.slice(0, max);
    // Not half a surrogate pair.
    if (/[\ud800-\udbff]$/.test(shown)) shown = shown.slice(0, -1);
  }
  shown = shown.replace(ODD, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  return whole > max ? `${shown}… (${whole.toLocaleString("en")} characters)` : shown;
}

/**
 * An element that should be there. `props.key` names it among its siblings, `on…` are listeners,
 * `max` is the longest text inside.
 */
export function h(tag, props, ...children) {
  return { tag, props: props || {}, children, key: props?.key };
}

function flat(children, into = []) {
  for (const child of children) {
    if (Array.isArray(child)) flat(child, into);
    else if (child !== null && child !== undefined && child !== false && child !== true && child !== "") into.push(child);
  }
  return into;
}

function create(vnode) {
  if (typeof vnode !== "object") return document.createTextNode("");
  const el = SVG_TAGS.has(vnode.tag) ? document.createElementNS(SVG, vnode.tag) : document.createElement(vnode.tag);
  el.kept = { props: {}, tag: vnode.tag };
  el.keyed = vnode.key;
  return el;
}

function fits(node, vnode) {
  if (typeof vnode !== "object") return node.nodeType === 3;
  return node.nodeType === 1 && node.kept?.tag === vnode.tag && node.keyed === vnode.key;
}

function setProp(el, name, value, before) {
  if (name === "key" || name === "max") return;
  if (name.startsWith("on")) {
    if (before) el.removeEventListener(name.slice(2), before);
    if (value) el.addEventListener(name.slice(2), value);
    return;
  }
  if (name === "value") {
    // What somebody types is not overwritten.
    if (document.activeElement !== el && el.value !== value) el.value = value;
    return;
  }
  if (name === "href") {
    if (!String(value).startsWith("#")) throw new Error("links stay on this page");
  } else if (!ATTRIBUTES.has(name) && !name.startsWith("aria-") && !name.startsWith("data-")) {
    throw new Error(`attribute ${name} is not for views`);
  }
  if (value === undefined || value === null || value === false) el.removeAttribute(name);
  else el.setAttribute(name, value === true ? "" : name === "points" || name === "d" ? value : clean(value, 600));
}

function update(node, vnode, max) {
  if (typeof vnode !== "object") {
    const text = clean(vnode, max);
    if (node.data !== text) node.data = text;
    return;
  }
  const before = node.kept.props;
  const props = vnode.props;
  for (const name in before) if (!(name in props)) setProp(node, name, undefined, before[name]);
  for (const name in props) if (props[name] !== before[name]) setProp(node, name, props[name], before[name]);
  node.kept.props = props;
  children(node, flat(vnode.children), props.max || max);
}

function children(parent, wanted, max) {
  const known = new Map();
  const wantedKeys = new Set();
  for (const vnode of wanted) {
    if (vnode.key === undefined) continue;
    // Two of one name: both are shown.
    while (wantedKeys.has(vnode.key)) vnode.key += "'";
    wantedKeys.add(vnode.key);
  }
  for (let node = parent.firstChild; node; ) {
    const next = node.nextSibling;
    if (node.keyed !== undefined) {
      // Gone ones first: the others then stay where they are and keep the focus.
      if (wantedKeys.has(node.keyed)) known.set(node.keyed, node);
      else parent.removeChild(node);
    }
    node = next;
  }
  let at = parent.firstChild;
  for (const vnode of wanted) {
    let node = vnode.key !== undefined ? known.get(vnode.key) : at;
    if (!node || !fits(node, vnode)) node = create(vnode);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    update(node, vnode, max);
  }
  while (at) {
    const next = at.nextSibling;
    parent.removeChild(at);
    at = next;
  }
}

/** Makes the inside of `parent` what `wanted` says. The focus stays where it is. */
export function patch(parent, wanted) {
  const focused = document.activeElement;
  children(parent, flat([wanted]), MAX_TEXT);
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}
