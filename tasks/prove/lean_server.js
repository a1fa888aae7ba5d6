// A Lean REPL in one process that stays warm: reads requests and writes answers as the community's REPL does (JSON, then a
// blank line), on top of Lean compiled to WebAssembly. The library is imported once; every request is elaborated in the
// environment it names, so that requests cannot reach one another.
//
// Beyond that REPL: `"keep": false` forgets the new environment; `"theorem": NAME, "like": ENV` looks NAME up in the new
// environment and says its kind, whether its type is that of NAME in ENV, and what its proof rests on besides the library.
//
//   node lean_server.js FOLDER     FOLDER holds lean.js (as `install` leaves it), lean.wasm and lib/lean
"use strict";
const folder = require("node:path").resolve(process.argv[2]);
const THREADS = 1;
const OK = 0, NIL = 1, LEAF = 3; // tag of a good result; the empty list and the empty set as boxed values
const AXIOMS = new Set(
  "propext Classical.choice Quot.sound sorryAx Lean.ofReduceBool Lean.ofReduceNat Lean.trustCompiler".split(" "),
);
const KINDS = ["axiom", "definition", "theorem", "opaque", "quotient", "inductive", "constructor", "recursor"];

console.log = quiet; // this build tells its debugging story on stdout, where the answers go
endWithParent();

const lean = (globalThis.temperModule = { noInitialRun: true, print: quiet, printErr: quiet, onRuntimeInitialized: serve });
require(folder + "/lean.js");

function quiet() {}

function endWithParent() {
  // In a thread of its own: the main one may be deep in a proof when whoever asked for it is killed.
  const { Worker } = require("node:worker_threads");
  const watch = `setInterval(() => { if (process.ppid !== ${process.ppid}) process.kill(process.pid, "SIGKILL"); }, 500)`;
  new Worker(watch, { eval: true }).unref();
}

function serve() {
  const wasm = lean.wasm;
  const envs = new Map(); // number -> command state
  const headers = new Map(); // text of a header -> the state after its imports, and what Lean said of them
  let next = 0;

  const words = () => new Int32Array(lean.memory().buffer);
  const bytes = () => new Uint8Array(lean.memory().buffer);
  const box = (number) => (number << 1) | 1;
  const isBoxed = (object) => object & 1;
  const tag = (object) => (isBoxed(object) ? object >> 1 : bytes()[object + 7]);
  const field = (object, index) => words()[(object >> 2) + 2 + index];

  // Reference counts as lean.h keeps them: positive in one thread, negative when shared, 0 for what is never freed.
  function held(object) {
    if (isBoxed(object)) return object;
    const memory = words(), count = memory[object >> 2];
    if (count > 0) memory[object >> 2] = count + 1;
    else if (count < 0) Atomics.sub(memory, object >> 2, 1);
    return object;
  }
  function release(object) {
    if (isBoxed(object)) return;
    const memory = words(), count = memory[object >> 2];
    if (count > 1) memory[object >> 2] = count - 1;
    else if (count !== 0) wasm.lean_dec_ref_cold(object);
  }
  function part(object, index) {
    const value = held(field(object, index));
    release(object);
    return value;
  }
  function pair(first, second) {
    const object = wasm.lean_alloc_object(16), memory = words();
    memory[object >> 2] = 1;
    memory[(object >> 2) + 1] = 16 | (2 << 16);
    memory[(object >> 2) + 2] = first;
    memory[(object >> 2) + 3] = second;
    return object;
  }
  function string(text) {
    const encoded = Buffer.from(text, "utf8"), place = wasm.malloc(encoded.length + 1);
    bytes().set(encoded, place);
    const object = wasm.lean_mk_string_from_bytes(place, encoded.length);
    wasm.free(place);
    return object;
  }
  function text(object) {
    const size = words()[(object >> 2) + 2];
    const said = Buffer.from(bytes().slice(object + 20, object + 20 + size - 1)).toString("utf8");
    release(object);
    return said;
  }
  function result(object) {
    if (tag(object) === OK) return part(object, 0);
    throw new Error(text(wasm.lean_io_error_to_string(part(object, 0))));
  }
  const global = (name) => held(words()[wasm[name].value >> 2]);

  function input(source) {
    return wasm.l_Lean_Parser_mkInputContext___redArg(string(source), string("f"), 1, box(Buffer.byteLength(source)));
  }
  function parsed(source) {
    // Returns the source as Lean takes it, its header, and where the parser stands behind that.
    const context = input(source);
    const found = result(wasm.l_Lean_Parser_parseHeader(held(context)));
    const syntax = held(field(found, 0)), after = part(found, 1);
    return { context, syntax, parser: held(field(after, 0)), log: part(after, 1) };
  }
  function imported({ context, syntax, parser, log }, source) {
    // An import costs seconds and stays in memory for good, so there is one for each header.
    const behind = field(parser, 0) >> 1;
    const said = Buffer.from(source, "utf8").subarray(0, behind).toString("utf8").trim();
    if (!headers.has(said)) {
      const options = global("l_Lean_Options_empty"), plugins = wasm.lean_mk_array(box(0), box(0));
      const name = wasm.l_Lean_Name_mkStr1(string("Temper"));
      const made = wasm.l_Lean_Elab_processHeader(held(syntax), held(options), held(log), held(context), 0, plugins, 1, name);
      const both = result(made);
      const env = held(field(both, 0)), messages = part(both, 1);
      const state = wasm.l_Lean_Elab_Command_mkState(env, messages, options);
      headers.set(said, { state, messages: messagesOf(state) });
    }
    return headers.get(said);
  }
  function messagesOf(state) {
    let list = wasm.l_Lean_MessageLog_toList(held(field(state, 1)));
    const said = [];
    while (list !== NIL) {
      said.push(JSON.parse(text(wasm.l_Lean_Json_compress(wasm.l_Lean_Message_toJson(held(field(list, 0)))))));
      list = part(list, 1);
    }
    const word = (severity) => (severity === "information" ? "info" : severity); // as the REPL says it
    return said.filter((m) => !m.isSilent).map((m) => ({ severity: word(m.severity), pos: m.pos, endPos: m.endPos, data: m.data }));
  }

  // What a declaration is: its constant in the environment of a command state, or null.
  function constant(state, name) {
    const found = wasm.l_Lean_Environment_find_x3f___boxed(held(field(state, 0)), held(name), box(0));
    return isBoxed(found) ? null : part(found, 0);
  }
  function sameType(one, other) {
    const first = wasm.l_Lean_ConstantInfo_type___boxed(held(one)), second = wasm.l_Lean_ConstantInfo_type___boxed(held(other));
    const levels = [one, other].map((it) => listOf(wasm.l_Lean_ConstantInfo_levelParams___boxed(held(it))).join());
    const same = wasm.lean_expr_eqv(first, second) === 1 && levels[0] === levels[1];
    release(first);
    release(second);
    return same;
  }
  const nameText = (name) => text(wasm.l_Lean_Name_toString___boxed(name, box(1)));
  function listOf(list) {
    const names = [];
    while (list !== NIL) {
      names.push(nameText(held(field(list, 0))));
      list = part(list, 1);
    }
    return names;
  }
  function axiomsOf(state, name) {
    const env = held(field(state, 0));
    const empty = pair(LEAF, wasm.lean_mk_array(box(0), box(0)));
    const found = part(part(wasm.l_Lean_CollectAxioms_collect(held(name), held(env), empty), 1), 1);
    // Of the library only the statements of theorems are loaded, so those look like axioms too; true ones are told by name.
    let list = wasm.lean_array_to_list_impl(NIL, found);
    const own = [];
    while (list !== NIL) {
      const axiom = held(field(list, 0)), said = nameText(held(axiom));
      const home = wasm.l_Lean_Environment_getModuleIdxFor_x3f___boxed(held(env), axiom);
      if (isBoxed(home)) own.push(said); // no module's: the candidate's own
      else {
        release(home);
        if (AXIOMS.has(said)) own.push(said);
      }
      list = part(list, 1);
    }
    release(env);
    return own;
  }
  function look(state, wanted, like) {
    // This build takes every file for a `module`, where what is not `public` goes by a name of its own.
    const name = wasm.l_Lean_mkPrivateName(field(state, 0), wasm.l_String_toName(string(wanted)));
    const found = constant(state, name);
    const given = like === undefined ? null : constant(stateOf(like), name);
    const seen = { kind: found === null ? null : KINDS[tag(found)] };
    if (found !== null && given !== null) seen.same_type = sameType(found, given);
    if (found !== null) seen.axioms = axiomsOf(state, name);
    for (const object of [name, found, given]) if (object !== null) release(object);
    return seen;
  }

  function stateOf(env) {
    if (!envs.has(env)) throw new Error("Unknown environment.");
    return envs.get(env);
  }
  function answer(request) {
    if (request.forget !== undefined) {
      release(stateOf(request.forget));
      envs.delete(request.forget);
      return {};
    }
    if (typeof request.cmd !== "string") throw new Error("no `cmd`: this REPL knows command mode alone");
    const fresh = request.env === undefined || request.env === null;
    const { context, syntax, parser, log } = parsed(fresh ? request.cmd : "");
    const header = fresh ? imported({ context, syntax, parser, log }, request.cmd) : { state: stateOf(request.env), messages: [] };
    release(syntax);
    release(log);
    const source = fresh ? context : (release(context), input(request.cmd));
    const done = result(wasm.l_Lean_Elab_IO_processCommands(source, parser, held(header.state)));
    const state = part(done, 0);
    const reply = {}, messages = header.messages.concat(messagesOf(state));
    if (messages.length) reply.messages = messages;
    if (request.theorem !== undefined) reply.theorem = look(state, request.theorem, request.like);
    if (request.keep === false) release(state);
    else envs.set((reply.env = next++), state);
    return reply;
  }

  lean.runtimeKeepalivePush(); // else Emscripten takes the end of any thread for that of the program, and ends them all
  lean.FS.mkdir("/lean");
  lean.FS.mount(lean.NODEFS, { root: folder }, "/lean");
  wasm.lean_initialize();
  wasm.lean_init_task_manager_using(THREADS);
  result(wasm.l_Lean_initSearchPath(string("/lean"), NIL));
  wasm.lean_io_mark_end_initialization();

  let pending = "";
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (chunk) => {
    const requests = (pending + chunk).split(/\n[ \t\r]*\n/);
    pending = requests.pop();
    for (const request of requests) if (request.trim()) write(reply(request));
  });
  process.stdin.on("end", () => {
    if (pending.trim()) write(reply(pending));
    process.exit(0);
  });
  function reply(request) {
    let parsed;
    try {
      parsed = JSON.parse(request);
    } catch (error) {
      return { message: `Could not parse JSON: ${error.message}` };
    }
    try {
      return answer(parsed);
    } catch (error) {
      if (!(error instanceof Error) || error instanceof WebAssembly.RuntimeError || error instanceof RangeError) die(error);
      return { message: error.message };
    }
  }
  function write(value) {
    require("node:fs").writeSync(1, JSON.stringify(value) + "\n\n");
  }
  write({ lean: text(global("l_Lean_versionStringCore")), memory: lean.memory().buffer.byteLength });
}

function die(error) {
  // After a trap, or a stack that ran out, nothing in memory can be trusted any more.
  process.stderr.write(`lean died: ${error && error.stack ? error.stack.split("\n").slice(0, 3).join(" | ") : error}\n`);
  process.exit(70);
}
