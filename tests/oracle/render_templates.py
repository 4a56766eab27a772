#!/usr/bin/env python3
"""The oracle of engine/jinja: jinja2, set up as chat templates are rendered everywhere.

  render_templates.py goldens             fill the expected text into tests/golden/jinja/*.json
  render_templates.py check               compare build/tests/jinja_render with jinja2 over the goldens
  render_templates.py templates [DIR]     ... over real templates x generated conversations
  render_templates.py random N [SEED]     ... over N random templates
  render_templates.py cases [DIR] [COUNT] print what jinja2 makes of DIR's templates, for tests/unit/test_chat.c

Needs python3-jinja2.  A difference prints its case and the exit status is 1."""
import datetime, glob, json, os, random, subprocess, sys, warnings

warnings.simplefilter("ignore")
os.environ["TZ"] = "UTC"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(ROOT, "tests/golden/jinja")
TOOL = os.environ.get("JINJA_RENDER", os.path.join(ROOT, "build/tests/jinja_render"))
NOW = 1732444800  # 24 Nov 2024, 10:40 UTC

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

try:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    print("skipped: python3-jinja2 is not installed")
    sys.exit(77)


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the assistant said; here it only passes it through."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


class Refused(jinja2.TemplateError):
    pass


def environment():
    def raise_exception(message):
        raise Refused(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    # Folding constants changes what some errors are: {[1]: 2} in a branch never taken, (1)[1:2].
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, optimized=False,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(NOW).strftime(f)
    del env.globals["lipsum"]
    return env


ENV = environment()


def expect(template, context):
    """(text, None) or (None, why)"""
    try:
        text = ENV.from_string(template).render(**context)
        text.encode("utf-8")
        return text, None
    except RecursionError:
        return None, "recursion"
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"


class Tool:
    def __init__(self):
        self.process = subprocess.Popen([TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, template, context):
        line = json.dumps({"template": template, "context": context, "now": NOW})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            return {"error": f"jinja_render died: status {self.process.wait()}", "code": -1}
        return json.loads(answer)


def show(kind, template, context, want, why, got):
    print(f"--- {kind}\ntemplate: {template!r}\n" + ("" if kind.startswith("random") else
          f"context:  {json.dumps(context)[:600]}"))
    print(f"jinja2:   {want!r}" if why is None else f"jinja2:   error {why}")
    print(f"kvd:      {got['text']!r}" if "text" in got else f"kvd:      error {got['error']}", flush=True)


def compare(tool, kind, template, context):
    want, why = expect(template, context)
    got = tool.render(template, context)
    if got.get("code") == -1:
        show(kind, template, context, want, why, got)
        sys.exit(1)
    if why is None and " at 0x" in want:  # Python prints the address of an object: nothing to compare
        return "text" in got
    same = got.get("text") == want if why is None else "error" in got
    if why is not None and why.startswith("Refused") and got.get("code") != 74:  # EBADMSG
        same = False
    if not same:
        show(kind, template, context, want, why, got)
    return same


def goldens():
    for path in sorted(glob.glob(GOLDEN + "/*.json")):
        cases = json.load(open(path))
        for case in cases:
            text, why = expect(case["template"], case.get("context", {}))
            case.pop("text", None), case.pop("error", None)
            case.update({"text": text} if why is None else {"error": why})
        with open(path, "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")
        print(f"{path}: {len(cases)} cases")
    return True


def check():
    tool, bad, n = Tool(), 0, 0
    for path in sorted(glob.glob(GOLDEN + "/*.json")):
        for case in json.load(open(path)):
            bad += not compare(tool, os.path.basename(path), case["template"], case.get("context", {}))
            n += 1
    print(f"{n} golden cases, {bad} differ")
    return bad == 0


TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "The weather <now> & \"soon\" in 東京",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "City, e.g. Zürich"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7, "default": 1.5}},
        "required": ["city"]}}},
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {},
                                      "return": {"type": "null"}}}]
TEXTS = ["Hi", "", "  spaced  \n", "naïve 日本語 🙂\u200d", "{{ messages }} {% raise %} {# no #}", "a\nb\n\n", "\n\n",
         "'quoted' \"double\" \\back", "<think>hm</think>answer", "<think>\nmany\nlines\n</think>\n\nanswer /no_think",
         "<tool_response>x</tool_response>", "/think please", "<|im_end|>", "x" * 300, "\x00\x1f\x7f"]


def conversations(rng, count):
    """Messages as clients send them: well formed most of the time."""
    def call(i):
        form = rng.randrange(4)
        arguments = rng.choice([{"city": "Bern", "days": 3}, {}, {"nested": {"a": [1, 2.5, None, True]}}, {"q": "é\"\\"}])
        function = {"name": rng.choice(["get_weather", "noop"]),
                    "arguments": json.dumps(arguments) if form == 0 else arguments}
        return {"name": function["name"], "arguments": arguments} if form == 1 else {
            "id": f"call{i:05d}" if form != 2 else "short", "type": "function", "function": function}

    for _ in range(count):
        messages = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": rng.choice(TEXTS)})
        for turn in range(rng.randrange(0, 5)):
            messages.append({"role": "user", "content": rng.choice(TEXTS)})
            kind = rng.randrange(6)
            if kind <= 2:
                reply = {"role": "assistant", "content": rng.choice(TEXTS)}
                if rng.random() < 0.2:
                    reply["reasoning_content"] = rng.choice(TEXTS + [None])
                messages.append(reply)
            elif kind == 3:
                n = rng.choice([1, 1, 2, 0])
                messages.append({"role": "assistant", "content": rng.choice(["", None, "text", "say"]),
                                 "tool_calls": [call(i) for i in range(n)]})
                for i in range(rng.choice([1, 1, 2])):
                    content = rng.choice(["sunny", "", {"content": "wrapped"}, {"t": 21.5}, ["a", 1], 7, None])
                    message = {"role": rng.choice(["tool", "tool", "ipython", "tool_results"]), "content": content}
                    if rng.random() < 0.8:
                        message["tool_call_id"] = f"call{i:05d}"
                    messages.append(message)
                if rng.random() < 0.6:
                    messages.append({"role": "assistant", "content": rng.choice(TEXTS)})
            elif kind == 4:
                messages.append({"role": rng.choice(["user", "narrator", "system"]), "content": rng.choice(TEXTS)})
        if rng.random() < 0.3:
            messages.append({"role": "user", "content": rng.choice(TEXTS)})
        if rng.random() < 0.05:
            messages.append({"role": "user"})
        context = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>",
                   "add_generation_prompt": rng.random() < 0.5}
        tools = rng.randrange(4)
        if tools < 3:
            context["tools"] = [None, TOOLS, TOOLS[:1]][tools]
        for name, values in (("enable_thinking", [True, False]), ("date_string", ["1 Jan 2025"]),
                             ("tools_in_user_message", [True, False]), ("builtin_tools", [["noop", "code_interpreter"]]),
                             ("custom_tools", [TOOLS])):
            if rng.random() < 0.25:
                context[name] = rng.choice(values)
        yield context


def gguf_template(path):
    """The chat template of a model file, read without any library."""
    import struct
    with open(path, "rb") as f:
        data = f.read(8 << 20)
    at = data.find(b"tokenizer.chat_template" + struct.pack("<I", 8))
    if at < 0:
        return None
    at += len("tokenizer.chat_template") + 4
    n, = struct.unpack_from("<Q", data, at)
    return data[at + 8:at + 8 + n].decode()


def find_templates(directory):
    found = {os.path.basename(p): open(p, newline="").read() for p in sorted(glob.glob(directory + "/*.jinja"))}
    for path in sorted(glob.glob(os.path.expanduser("~/.cache/kvd/models/*.gguf"))):
        if gguf_template(path):
            found[os.path.basename(path)] = gguf_template(path)
    return found


def cases(directory, count):
    for name, template in find_templates(directory).items():
        for context in conversations(random.Random(name), count):
            context.setdefault("tools", None)
            text, why = expect(template, context)
            case = {"name": name, "template": template, "context": context, "now": NOW}
            print(json.dumps({**case, "text": text} if why is None else
                             {**case, "error": why, "refused": why.startswith("Refused")}))
    return True


def templates(directory, count=400):
    found = find_templates(directory)
    if not found:
        print(f"skipped: no templates in {directory}")
        return None
    tool, all_bad = Tool(), 0
    for name, template in found.items():
        bad = errors = 0
        for context in conversations(random.Random(name), count):
            bad += not compare(tool, name, template, context)
            errors += expect(template, context)[1] is not None
        print(f"{name}: {count} conversations, {errors} refused by both, {bad} differ")
        all_bad += bad
    return all_bad == 0


def main():
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "goldens":
        ok = goldens()
    elif command == "check":
        ok = check()
    elif command in ("templates", "cases"):
        shared = os.environ.get("KVD_SHARED", os.path.join(ROOT, "../shared"))
        directory = sys.argv[2] if len(sys.argv) > 2 else os.path.join(shared, "templates")
        ok = templates(directory) if command == "templates" else cases(directory, int(sys.argv[3]) if len(sys.argv) > 3 else 30)
    elif command == "random" and len(sys.argv) > 2:
        import random_templates
        seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
        tool, n, bad, errors = Tool(), int(sys.argv[2]), 0, 0
        for i in range(n):
            template, context = random_templates.make(random.Random(f"{seed}/{i}"))
            errors += expect(template, context)[1] is not None
            bad += not compare(tool, f"random {seed}/{i}", template, context)
        print(f"{n} random templates of seed {seed}: {errors} are errors in jinja2, {bad} differ")
        ok = bad == 0
    else:
        sys.exit(__doc__)
    sys.exit(77 if ok is None else 0 if ok else 1)


if __name__ == "__main__":
    main()
