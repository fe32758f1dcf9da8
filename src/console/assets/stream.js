// Session and stream: the only places that talk to the server.

/** A stream that has said nothing for so long is dead (the server pings every 5 s). */
const SILENCE_MS = 15000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10000;
/** One message of the stream; more than this is no honest server's. */
const MAX_BUFFER = 16 * 1024 * 1024;

function send(token) {
  return fetch("session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
    credentials: "same-origin",
    cache: "no-store",
  });
}

/** Signs in. The token is in the request and nowhere else. Resolves to "" or to what is wrong. */
export async function signIn(token) {
  let answer;
  try {
    // Once more: a browser drops what is under way when its machine's network changes.
    answer = await send(token).catch(() => new Promise((done) => setTimeout(done, FIRST_PAUSE_MS)).then(() => send(token)));
  } catch {
    return "The server of this console does not answer. Is it running, and is this machine still connected to it?";
  }
  if (answer.ok) return "";
  const said = await reason(answer);
  if (answer.status === 401) return said || "This token is not accepted. It may be mistyped, expired or revoked.";
  if (answer.status === 429) return said || "Too many tries. Wait a minute, then try again.";
  return `The server refused: ${said || `status ${answer.status}`}`;
}

/** Signs out: the server takes its cookie back. */
export async function signOut() {
  try {
    const headers = { "content-type": "application/json" };
    const answer = await fetch("session", { method: "DELETE", headers, credentials: "same-origin" });
    return answer.ok;
  } catch {
    return false;
  }
}

/** What an error answer says, if it says something readable. */
async function reason(answer) {
  try {
    const said = (await answer.json()).error;
    return typeof said === "string" ? said : "";
  } catch {
    return "";
  }
}

/**
 * The stream of changes; opens itself again with growing pauses until `stop`.
 * `on.change(change)` for each message, `on.state(state)` at each step:
 * `{name: "connecting" | "open" | "waiting" | "out", why, retryAt}`.
 */
export class Stream {
  constructor(on) {
    this.on = on;
    this.round = 0;
    this.failures = 0;
    this.abort = null;
    this.timer = 0;
    this.heard = 0;
  }

  start() {
    this.stop();
    this.failures = 0;
    this.run();
  }

  stop() {
    this.round += 1;
    clearTimeout(this.timer);
    clearInterval(this.watch);
    this.abort?.abort();
    this.abort = null;
  }

  /** Does not wait for the end of the pause. */
  now() {
    if (!this.abort) {
      clearTimeout(this.timer);
      this.run();
    }
  }

  async run() {
    const round = (this.round += 1);
    const current = () => round === this.round;
    const abort = (this.abort = new AbortController());
    this.on.state({ name: "connecting" });
    this.heard = Date.now();
    this.watch = setInterval(() => {
      if (Date.now() - this.heard > SILENCE_MS) abort.abort();
    }, 1000);
    let why = "";
    try {
      const answer = await fetch("stream", {
        headers: { accept: "text/event-stream" },
        credentials: "same-origin",
        cache: "no-store",
        signal: abort.signal,
      });
      if (!current()) return;
      if (answer.status === 401) {
        this.stop();
        this.on.state({ name: "out", why: await reason(answer) });
        return;
      }
      if (answer.ok) {
        this.on.state({ name: "open" });
        await this.read(answer.body, current);
      } else {
        why = (await reason(answer)) || `the server answered with status ${answer.status}`;
      }
    } catch (err) {
      if (current() && err.name === "SyntaxError") why = "the server sent something unreadable";
    }
    if (!current()) return;
    clearInterval(this.watch);
    this.abort = null;
    this.failures += 1;
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this.failures - 1));
    // Not all consoles at once when the server comes back.
    const pause = longest * (0.5 + Math.random() / 2);
    this.on.state({ name: "waiting", why, retryAt: Date.now() + pause });
    this.timer = setTimeout(() => this.run(), pause);
  }

  /** Reads server-sent events until the stream ends. */
  async read(body, current) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || !current()) return;
      this.heard = Date.now();
      rest += value;
      if (rest.length > MAX_BUFFER) throw new Error("endless message");
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block
          .split(/\r?\n/)
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5))
          .join("\n");
        if (!data) continue;
        this.failures = 0;
        this.on.change(JSON.parse(data));
      }
    }
  }
}
