// Serves the boards of grafana/dashboards with a page of our own that draws them from Prometheus. It
// is no Grafana: it stands where no Grafana can be had, for pictures and for proofs that the boards
// are found and their queries answered. Standard library of Node.js 18 or newer only.
//
//   node tests/boards/serve.mjs --prometheus http://127.0.0.1:9090 [--dashboards grafana/dashboards]
//       [--port 3000] [--host 127.0.0.1] [--scrape 15]
//
// GET /api/health, /api/search, /api/dashboards/uid/<uid> answer in the form of Grafana's; /d/<uid>
// is a page (?from=now-1h&to=now&var-node=edge-1); /prometheus/ is handed on to Prometheus.
import { createServer } from "node:http";
import { readFile, readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));
const { values: args } = parseArgs({
  options: {
    prometheus: { type: "string" },
    dashboards: { type: "string", default: join(here, "../../grafana/dashboards") },
    port: { type: "string", default: "3000" },
    host: { type: "string", default: "127.0.0.1" },
    // Seconds between two scrapes, as jsonData.timeInterval of the data source.
    scrape: { type: "string", default: "15" },
  },
});
if (!args.prometheus) {
  console.error("serve.mjs: --prometheus URL is wanted");
  process.exit(64);
}

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8" };

async function boards() {
  const files = (await readdir(args.dashboards)).filter((name) => name.endsWith(".json")).sort();
  return Promise.all(files.map(async (name) => JSON.parse(await readFile(join(args.dashboards, name), "utf8"))));
}

function answer(response, code, type, body) {
  response.writeHead(code, { "content-type": type, "cache-control": "no-store" });
  response.end(body);
}
const json = (response, code, body) => answer(response, code, "application/json", JSON.stringify(body));

async function prometheus(path, request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const headers = request.headers["content-type"] ? { "content-type": request.headers["content-type"] } : {};
  const body = chunks.length ? Buffer.concat(chunks) : undefined;
  const url = args.prometheus.replace(/\/$/, "") + path;
  const got = await fetch(url, { method: request.method, headers, body, signal: AbortSignal.timeout(30000) });
  answer(response, got.status, got.headers.get("content-type") ?? "application/json", Buffer.from(await got.arrayBuffer()));
}

async function handle(request, response) {
  const url = new URL(request.url, "http://localhost");
  const path = url.pathname;
  if (path === "/api/health") return json(response, 200, { database: "ok", version: "our own page, not Grafana" });
  if (path === "/api/settings") return json(response, 200, { scrape: Number(args.scrape) });
  if (path === "/api/search") {
    const found = (await boards()).map((b) => ({ uid: b.uid, title: b.title, tags: b.tags, url: `/d/${b.uid}`, type: "dash-db" }));
    return json(response, 200, found);
  }
  if (path === "/") {
    response.writeHead(302, { location: "/d/kubeedge-fleet" });
    return response.end();
  }
  const [, uid] = path.match(/^\/(?:d|api\/dashboards\/uid)\/([\w-]+)/) ?? [];
  if (uid) {
    const board = (await boards()).find((b) => b.uid === uid);
    if (!board) return json(response, 404, { message: "Dashboard not found" });
    if (path.startsWith("/api")) return json(response, 200, { dashboard: board, meta: { provisioned: true } });
    return answer(response, 200, TYPES[".html"], await readFile(join(here, "page/index.html")));
  }
  if (path.startsWith("/prometheus/")) return prometheus(path.slice("/prometheus".length) + url.search, request, response);
  const file = path.match(/^\/page\/(\w+\.(?:js|css))$/)?.[1];
  if (file) {
    const type = TYPES[file.slice(file.lastIndexOf("."))];
    return answer(response, 200, type, await readFile(join(here, "page", basename(file))));
  }
  return json(response, 404, { message: "Not found" });
}

const server = createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(`${request.url}: ${error}`);
    if (!response.headersSent) json(response, 502, { message: String(error) });
  });
});
server.listen(Number(args.port), args.host, () => {
  console.log(`serving ${args.dashboards} on http://${args.host}:${server.address().port}`);
});
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
