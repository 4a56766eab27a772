"""Random templates of the subset, for render_templates.py random: mostly well typed, so that most
of them render; some not, so that errors are compared too."""

CONTEXT = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 世界 🙂"},
                 {"role": "assistant", "content": "  ok  ", "tool_calls": [
                     {"id": "abcdefghi", "function": {"name": "f", "arguments": {"a": 1, "b": [1.5, None, True]}}}]}],
    "n": 7, "neg": -3, "x": 2.5, "s": "Hello, World", "e": "", "l": [3, 1, 2], "words": ["b", "A", "c", "a"],
    "d": {"b": 1, "A": 2, "items": 3}, "t": True, "nul": None, "u": "straße ÇA 12\tx", "nest": [[1, 2], [3], []],
    "rows": [{"k": "a", "v": 2}, {"k": "B", "v": 1}, {"k": "a", "v": None, "w": {"z": 1}}],
}
STRINGS = ["", "a", "ab", "o", "l", " ", ",", "Hello", "\\n", "é", "x y z", "aXbXc", "{{", "12", "-3.5", "\\'", "%s", "A-b (c"]


def make(rng):
    return Generator(rng).template(), CONTEXT


class Generator:
    def __init__(self, rng):
        self.rng, self.names = rng, []

    def pick(self, *options):
        return self.rng.choice(options)

    def expression(self, depth=3):
        kind = self.pick("string", "string", "number", "list", "dict", "bool", "any")
        return self.of(kind, depth)

    def of(self, kind, depth):
        if self.rng.random() < 0.04:
            kind = self.pick("string", "number", "list", "dict", "bool", "any")
        return getattr(self, kind)(max(depth, 0))

    def variable(self, *names):
        if self.names and self.rng.random() < 0.3:
            return self.rng.choice(self.names)
        return self.rng.choice(names)

    def literal(self):
        return "'" + self.rng.choice(STRINGS) + "'"

    def string(self, depth):
        if depth <= 0:
            return self.pick(self.literal(), self.literal(), "s", "e", "u", "messages[1].content", "words[1]")
        a, b, n = (lambda: self.of("string", depth - 1)), (lambda: self.literal()), (lambda: self.of("number", depth - 2))
        return self.rng.choice([
            lambda: f"{a()} + {a()}", lambda: f"{a()} ~ {self.expression(depth - 1)}", lambda: f"({a()} ~ {a()})",
            lambda: f"{a()}|trim", lambda: f"({a()})|trim({b()})", lambda: f"({a()})|upper", lambda: f"({a()})|lower",
            lambda: f"({a()})|title", lambda: f"({a()})|capitalize", lambda: f"({a()})|replace({b()}, {b()})",
            lambda: f"({a()})|replace({b()}, {b()}, {self.pick(0, 1, 2)})", lambda: f"({a()}).strip({self.pick('', b())})",
            lambda: f"({a()}).lstrip({self.pick('', b())})", lambda: f"({a()}).rstrip({self.pick('', b())})",
            lambda: f"({a()}).replace({b()}, {b()})", lambda: f"({a()}).title()", lambda: f"({a()}).swapcase()",
            lambda: f"({a()}).upper()", lambda: f"({a()}).capitalize()",
            lambda: f"({a()})[{self.slice(depth)}]", lambda: f"({a()})[{n()}]",
            lambda: f"({self.of('list', depth - 1)})|join({b()})", lambda: f"{b()}.join({self.of('list', depth - 1)})",
            lambda: f"({self.expression(depth - 1)})|string", lambda: f"({self.expression(depth - 1)})|tojson",
            lambda: f"({self.expression(depth - 1)})|tojson(indent={self.pick(0, 1, 2, 4)})",
            lambda: f"({a()})|indent({self.pick('2', '1, true', '3, blank=true', 'width=1, first=true')})",
            lambda: f"{a()} if {self.of('bool', depth - 1)} else {a()}", lambda: f"({a()})|default({b()}, true)",
            lambda: f"({a()}) * {self.pick(0, 1, 2, 3)}", lambda: f"({a()})|reverse",
            lambda: f"({a()}).center({self.pick(0, 5, 10, 11)}, '*')", lambda: f"({a()}).zfill({self.pick(1, 4, 8)})",
            lambda: f"({a()}).removeprefix({b()})", lambda: f"({a()})|center({self.pick(4, 9)})",
            lambda: f"'%s and %r' % ({self.expression(depth - 1)}, {self.expression(depth - 1)})",
            lambda: f"'%{self.pick('', '5', '-5', '05', '+', '.1', '8.2')}{self.pick('d', 's', 'f', 'x', 'e', 'g')}' % ({self.of('number', depth - 1)},)",
            lambda: f"'{{:{self.pick('', '>6', '<6', '^7', '*^6', '06', '+', ',', '.2f', 'x', '#x', '8.3e', '%', '.3g')}}}'.format({self.expression(depth - 1)})",
            lambda: f"'{{}}-{{}}'.format({a()}, {a()})",
        ])()

    def number(self, depth):
        if depth <= 0:
            return self.pick("0", "1", "2", "3", "-1", "7", "1.5", "0.1", "1e3", "n", "neg", "x", "l[0]", "true", "100", "2.0")
        a = lambda: self.of("number", depth - 1)
        return self.rng.choice([
            lambda: f"{a()} {self.pick('+', '-', '*', '/', '//', '%')} {a()}", lambda: f"({a()} {self.pick('+', '-', '*', '/', '//', '%')} {a()})",
            lambda: f"{a()} ** {self.pick(0, 1, 2, 3, -1)}", lambda: "2 * x ** 0.5", lambda: f"-{a()}", lambda: f"(-({a()}))", lambda: f"+{a()}",
            lambda: f"({a()})|abs", lambda: f"({a()})|round", lambda: f"({a()})|round({self.pick(-1, 0, 1, 2, 5)})",
            lambda: f"({a()})|round({self.pick(0, 1)}, '{self.pick('ceil', 'floor', 'common')}')", lambda: f"({self.expression(depth - 1)})|int",
            lambda: f"({self.expression(depth - 1)})|float", lambda: f"({self.expression(depth - 1)})|int({a()})",
            lambda: f"({self.of('string', depth - 1)})|length", lambda: f"({self.of('list', depth - 1)})|length",
            lambda: f"({self.of('dict', depth - 1)})|length", lambda: f"({self.of('string', depth - 1)}).find({self.literal()})",
            lambda: f"({self.of('string', depth - 1)}).rfind({self.literal()})",
            lambda: f"({self.of('string', depth - 1)}).count({self.literal()})", lambda: f"({self.of('list', depth - 1)})|sum",
            lambda: f"({self.of('list', depth - 1)})|{self.pick('first', 'last', 'min', 'max')}",
            lambda: f"({self.of('list', depth - 1)})[{a()}]", lambda: f"({self.of('string', depth - 1)})|wordcount",
            lambda: f"(rows|sum(attribute='v'))", lambda: f"({self.of('list', depth - 1)}).count({a()})",
        ])()

    def bool(self, depth):
        if depth <= 0:
            return self.pick("t", "true", "false", "not t", "n > 3", "e", "nul")
        a, anything = (lambda: self.of("bool", depth - 1)), (lambda: self.expression(depth - 1))
        tests = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float",
                 "boolean", "true", "false", "callable", "lower", "upper"]
        return self.rng.choice([
            lambda: f"{a()} {self.pick('and', 'or')} {a()}", lambda: f"not {a()}", lambda: f"({a()})",
            lambda: f"({anything()}) is {self.pick('', 'not ')}{self.rng.choice(tests)}",
            lambda: f"{self.of('number', depth - 1)} {self.pick('<', '>', '<=', '>=', '==', '!=')} {self.of('number', depth - 1)}",
            lambda: f"1 < {self.of('number', depth - 1)} <= 5", lambda: f"{anything()} == {anything()}", lambda: f"{anything()} != {anything()}",
            lambda: f"{self.of('string', depth - 1)} {self.pick('in', 'not in')} {self.of('string', depth - 1)}",
            lambda: f"{anything()} in {self.of('list', depth - 1)}", lambda: f"{self.literal()} in {self.of('dict', depth - 1)}",
            lambda: f"({self.of('number', depth - 1)}) is {self.pick('odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'eq 2', 'in [1, 2]', 'gt 1', 'sameas 1')}",
            lambda: f"({self.of('string', depth - 1)}).{self.pick('startswith', 'endswith')}({self.literal()})",
            lambda: f"({self.of('string', depth - 1)}).{self.pick('isdigit', 'isalpha', 'isspace', 'isupper', 'isalnum', 'islower')}()",
            lambda: f"{self.of('string', depth - 1)} {self.pick('<', '>=')} {self.of('string', depth - 1)}",
            lambda: f"{self.of('list', depth - 1)} < {self.of('list', depth - 1)}", lambda: f"nosuch is {self.pick('', 'not ')}defined",
        ])()

    def slice(self, depth):
        part = lambda: self.pick("", "", "1", "-1", "2", "-3", "100", "-100", "n")
        return part() + ":" + part() + self.pick("", "", ":" + self.pick("", "1", "-1", "2", "-2"))

    def list(self, depth):
        if depth <= 0:
            return self.pick("l", "words", "[]", "[1, 2]", "nest", "rows", "messages", "('a', 1)", "range(4)")
        a = lambda: self.of("list", depth - 1)
        attribute = lambda: self.pick("'k'", "'v'", "'w.z'", "'role'", "0")
        return self.rng.choice([
            lambda: f"[{self.expression(depth - 1)}, {self.expression(depth - 1)}]", lambda: f"({self.expression(depth - 1)}, {self.expression(depth - 1)})",
            lambda: f"{a()} + {a()}", lambda: f"({a()})[{self.slice(depth)}]", lambda: f"({a()})|list", lambda: f"({a()})|sort",
            lambda: f"({a()})|sort(reverse=true)", lambda: f"words|sort(case_sensitive=true)", lambda: f"({a()})|reverse|list",
            lambda: f"({a()})|unique|list", lambda: f"({a()})|map('{self.pick('upper', 'string', 'int', 'length', 'abs', 'tojson')}')|list",
            lambda: f"rows|map(attribute={attribute()})|list", lambda: f"rows|map(attribute={attribute()}, default={self.expression(0)})|list",
            lambda: f"({a()})|select('{self.pick('odd', 'string', 'defined', 'number', 'none')}')|list", lambda: f"({a()})|reject('{self.pick('even', 'string', 'mapping')}')|list",
            lambda: f"({a()})|select|list", lambda: f"rows|selectattr({attribute()})|list", lambda: f"rows|rejectattr({attribute()}, '{self.pick('defined', 'none', 'string')}')|list",
            lambda: f"rows|selectattr('k', 'equalto', {self.literal()})|list", lambda: f"rows|selectattr('k', 'in', ['a'])|map(attribute='v')|list",
            lambda: f"rows|sort(attribute={self.pick(chr(39) + 'k' + chr(39), chr(39) + 'v' + chr(39))})|map(attribute='k')|list",
            lambda: f"({self.of('string', depth - 1)}).{self.pick('split', 'rsplit')}({self.pick('', self.literal(), self.literal() + ', 1', 'none, 1')})",
            lambda: f"({self.of('string', depth - 1)}).splitlines()", lambda: f"({self.of('string', depth - 1)})|list",
            lambda: f"({self.of('string', depth - 1)}).{self.pick('partition', 'rpartition')}({self.literal()})",
            lambda: f"({self.of('dict', depth - 1)})|dictsort", lambda: f"({self.of('dict', depth - 1)}).{self.pick('items', 'keys', 'values')}()|list",
            lambda: f"({self.of('dict', depth - 1)})|items|list", lambda: f"range({self.of('number', 0)}, {self.pick(3, 5, -2)})|list",
            lambda: f"({a()})|batch(2)|list", lambda: f"({a()}) * 2", lambda: f"({self.of('dict', depth - 1)})|list",
            lambda: f"{a()} if {self.of('bool', depth - 1)} else {a()}",
        ])()

    def dict(self, depth):
        if depth <= 0:
            return self.pick("d", "{}", "{'a': 1}", "messages[0]", "rows[2]", "{'x': [1], 'Y': none}")
        return self.rng.choice([
            lambda: f"{{{self.literal()}: {self.expression(depth - 1)}, {self.expression(0)}: {self.expression(depth - 1)}}}",
            lambda: f"dict(a={self.expression(depth - 1)}, b=2)", lambda: f"dict({self.of('dict', depth - 1)}, z=1)",
            lambda: f"{self.of('dict', depth - 1)} if {self.of('bool', depth - 1)} else d",
        ])()

    def any(self, depth):
        return self.rng.choice([
            lambda: self.variable("n", "s", "l", "d", "nul", "t", "x", "nosuch", "messages", "rows", "nest"),
            lambda: f"({self.of('dict', depth - 1)}).{self.pick('b', 'role', 'missing')}",
            lambda: f"({self.of('dict', depth - 1)})[{self.literal()}]", lambda: f"({self.of('dict', depth - 1)}).get({self.literal()}, {self.expression(depth - 1)})",
            lambda: f"({self.of('list', depth - 1)})[{self.of('number', depth - 1)}]", lambda: f"({self.of('list', depth - 1)})|first",
            lambda: f"nosuch|default({self.expression(depth - 1)})", lambda: "none", lambda: f"{self.of('bool', depth)}",
            lambda: f"{self.expression(depth - 1)} {self.pick('or', 'and')} {self.expression(depth - 1)}" if depth else "nul",
        ])()

    def space(self):
        return self.pick("", "", " ", "\n", "  ", "\n  ", " \n", "\n\n", "\t")

    def tag(self, inside):
        return self.space() + "{%" + self.pick("", "", "-", "+") + " " + inside + " " + self.pick("", "", "-", "+") + "%}" + self.space()

    def statement(self, depth, in_loop=False):
        kind = self.rng.randrange(16 if depth > 0 else 5)
        if kind <= 2:
            return "{{" + self.pick("", "-") + " " + self.expression(self.rng.randrange(4)) + " " + self.pick("", "-") + "}}"
        if kind == 3:
            return self.pick("text", " x ", "\n", "  \n  ", "é", "{# note #}", "{#- note -#}", "\n  {# note #}\n", "{% raw %}{{ x }}{% endraw %}")
        name = self.pick("v", "w", "y")
        if kind == 4:
            text = self.tag(f"set {name} = {self.expression(2)}")
            self.names.append(name)
            return text
        body = lambda loop=in_loop: self.block(depth - 1, loop)
        if kind in (5, 6, 7):
            text = self.tag(f"if {self.of('bool', 2)}") + body()
            if self.rng.random() < 0.3:
                text += self.tag(f"elif {self.of('bool', 2)}") + body()
            if self.rng.random() < 0.5:
                text += self.tag("else") + body()
            return text + self.tag("endif")
        if kind in (8, 9, 10):
            target, of = self.pick(("i", self.of("list", 2)), ("i", self.of("list", 2)), ("k, z", f"({self.of('dict', 1)}).items()"),
                                   ("c", self.of("string", 1)), ("m", "messages"), ("k, z", "d|items"))
            condition = f" if {self.of('bool', 1)}" if self.rng.random() < 0.25 else ""
            self.names += target.split(", ")
            loop = "{{ loop." + self.pick("index", "index0", "first", "last", "length", "revindex", "previtem", "nextitem", "cycle(1, 'b')") + " }}"
            inner = self.pick("", loop, loop) + body(True)
            if self.rng.random() < 0.2:
                inner += self.tag("if loop.index " + self.pick("==", ">", "<") + " 2") + self.tag(self.pick("break", "continue")) + self.tag("endif") + "."
            tail = self.tag("else") + body() if self.rng.random() < 0.2 else ""
            return self.tag(f"for {target} in {of}{condition}") + inner + tail + self.tag("endfor")
        if kind == 11:
            text = self.tag(f"set {name}" + self.pick("", " | upper", " | trim | length")) + body(False) + self.tag("endset") + "{{ " + name + " }}"
            self.names.append(name)
            return text
        if kind == 12:
            signature, call = self.pick(("", ""), ("a", "1"), ("a, b=a", self.literal()), ("a=n, b='z'", "b=" + self.literal()), ("a", ""), ("", "1"))
            self.names += ["a", "b"]
            return self.tag(f"macro f({signature})") + body(False) + self.tag("endmacro") + "{{ f(" + call + ") }}"
        if kind == 13:
            return (self.tag(f"set ns = namespace(c={self.of('number', 1)})") + self.tag(f"for i in {self.of('list', 1)}")
                    + self.tag(f"set ns.c = {self.pick('ns.c + 1', 'i', 'ns.c ~ i', self.expression(1))}") + self.tag("endfor") + "{{ ns.c }}")
        if kind == 14:
            return self.tag("macro g(h)") + "<{{ caller(" + self.pick("", "h") + ") }}>" + self.tag("endmacro") + self.tag(
                "call" + self.pick("", "(q)") + f" g({self.expression(1)})") + body(False) + self.tag("endcall")
        return self.pick(self.tag(f"with {name} = {self.expression(1)}") + body() + self.tag("endwith"),
                         self.tag("filter " + self.pick("upper", "trim", "replace('a', 'b')")) + body(False) + self.tag("endfilter"),
                         self.tag("generation") + body(False) + self.tag("endgeneration"))

    def block(self, depth, in_loop):
        return "".join(self.space() + self.statement(depth, in_loop) for _ in range(self.rng.randrange(1, 4)))

    def template(self):
        if self.rng.random() < 0.6:
            return "{{ " + self.expression(self.rng.randrange(1, 5)) + " }}"
        return self.block(self.rng.randrange(1, 4), False)
