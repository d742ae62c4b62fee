package rawjson

// Member holds the spans of one member of an object. The span of the name includes the quotes.
type Member struct{ Name, Value Span }

// Members iterates over the members of one object:
//
//	m, err := rawjson.OpenObject(text)
//	for m.Next() { use m.Name(), m.Value() }
//	err = m.Err()
type Members struct {
	text       []byte
	pos        int // index of the next token; after NextName, index of the value
	name       Span
	value      Span
	expected   string
	seenMember bool
	nested     bool // the object is part of a longer text
	spaced     bool // there was white space outside strings
	err        error
}

// OpenObject starts the iteration over the members of text, which must be exactly one object.
func OpenObject(text []byte) (Members, error) {
	i := SkipSpace(text, 0)
	if i >= len(text) || text[i] != '{' {
		return Members{}, &SyntaxError{i, "an object"}
	}
	return Members{text: text, pos: i + 1, spaced: i > 0}, nil
}

// Next advances to the next member and validates it. It returns false after the last member or an
// error.
func (m *Members) Next() bool { return m.NextName() && m.SkipValue() }

// NextName advances to the next member, but validates only its name. The caller must then call
// SkipValue or Object.
func (m *Members) NextName() bool {
	b, i := m.text, m.space(m.pos)
	if i >= len(b) {
		return m.fail(&SyntaxError{i, "the end of an object"})
	}
	if b[i] == '}' {
		m.pos = i + 1
		if m.nested {
			return false
		}
		if end := m.space(m.pos); end != len(b) {
			return m.fail(&SyntaxError{end, "the end of the text"})
		}
		return false
	}
	if m.seenMember {
		if b[i] != ',' {
			return m.fail(&SyntaxError{i, "a comma"})
		}
		i = m.space(i + 1)
	}
	m.seenMember = true
	if i >= len(b) || b[i] != '"' {
		return m.fail(&SyntaxError{i, "a member's name"})
	}
	end := i + len(m.expected) + 2
	var err error
	if m.expected == "" || end > len(b) || b[end-1] != '"' || string(b[i+1:end-1]) != m.expected {
		if end, err = skipString(b, i); err != nil {
			return m.fail(err)
		}
	}
	m.name = Span{uint32(i), uint32(end)}
	i = m.space(end)
	if i >= len(b) || b[i] != ':' {
		return m.fail(&SyntaxError{i, "a colon"})
	}
	m.pos = m.space(i + 1)
	return true
}

// space is like SkipSpace, but also records whether it skipped any white space.
func (m *Members) space(i int) int {
	at := SkipSpace(m.text, i)
	m.spaced = m.spaced || at != i
	return at
}

// SkipValue validates the value of the member whose name NextName has read.
func (m *Members) SkipValue() bool {
	end, spaced, err := skip(m.text, m.pos)
	if err != nil {
		return m.fail(err)
	}
	m.spaced = m.spaced || spaced
	m.value = Span{uint32(m.pos), uint32(end)}
	m.pos = end
	return true
}

// AtObject reports whether the value after NextName starts as an object.
func (m *Members) AtObject() bool { return m.pos < len(m.text) && m.text[m.pos] == '{' }

// Object validates the value of the member whose name NextName has read. The value must be an
// object, whose members Object appends to dst. If the object has more than limit members, Object
// returns nil instead.
func (m *Members) Object(dst []Member, limit int) ([]Member, bool) {
	if !m.AtObject() {
		return dst, m.fail(&SyntaxError{m.pos, "an object"})
	}
	start := m.pos
	inner := Members{text: m.text, pos: m.pos + 1, nested: true}
	for n := 0; inner.Next(); n++ {
		switch {
		case n < limit:
			dst = append(dst, Member{inner.name, inner.value})
		case n == limit:
			dst = nil
		}
	}
	if inner.err != nil {
		return dst, m.fail(inner.err)
	}
	m.value = Span{uint32(start), uint32(inner.pos)}
	m.pos = inner.pos
	m.spaced = m.spaced || inner.spaced
	return dst, true
}

func (m *Members) fail(err error) bool {
	m.err = err
	return false
}

// Expect sets the probable name of the next member. If the member has that name, Next finds the end
// of the name with a single comparison. The name must not need JSON escapes.
func (m *Members) Expect(name string) { m.expected = name }

// Name returns the unescaped name of the current member. The result stays valid as long as the
// text does.
func (m *Members) Name() []byte { return Text(m.text[m.name.Start:m.name.End]) }

// Value returns the raw value of the current member.
func (m *Members) Value() []byte { return m.text[m.value.Start:m.value.End] }

// Span returns the span of the current member's value.
func (m *Members) Span() Span { return m.value }

// Spaced reports whether the text read so far has white space outside strings.
func (m *Members) Spaced() bool { return m.spaced }

// Err returns the error that stopped the iteration, or nil if there was none.
func (m *Members) Err() error { return m.err }

// Elements calls yield with the span of each element of text, which must be exactly one array. It
// stops at the first error.
func Elements(text []byte, yield func(element Span) error) error {
	i := SkipSpace(text, 0)
	if i >= len(text) || text[i] != '[' {
		return &SyntaxError{i, "an array"}
	}
	i = SkipSpace(text, i+1)
	if i < len(text) && text[i] == ']' {
		return atEnd(text, i+1)
	}
	for {
		end, err := Skip(text, i)
		if err != nil {
			return err
		}
		if err := yield(Span{uint32(i), uint32(end)}); err != nil {
			return err
		}
		i = SkipSpace(text, end)
		switch {
		case i < len(text) && text[i] == ',':
			i = SkipSpace(text, i+1)
		case i < len(text) && text[i] == ']':
			return atEnd(text, i+1)
		default:
			return &SyntaxError{i, "a comma"}
		}
	}
}

func atEnd(text []byte, i int) error {
	if i = SkipSpace(text, i); i != len(text) {
		return &SyntaxError{i, "the end of the text"}
	}
	return nil
}

// IsNull reports whether raw is the literal null.
func IsNull(raw []byte) bool { return len(raw) == 4 && raw[0] == 'n' }

// IsString reports whether raw is a string.
func IsString(raw []byte) bool { return len(raw) >= 2 && raw[0] == '"' }
