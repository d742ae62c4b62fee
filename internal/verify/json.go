package verify

import (
	"bytes"
	"slices"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// appendJSON appends the canonical form of the valid JSON value that starts at b[i], and returns
// the index after the value.
func appendJSON(dst, b []byte, i int) ([]byte, int) {
	switch c := b[i]; {
	case c == '{':
		return appendObject(dst, b, i)
	case c == '[':
		return appendArray(dst, b, i)
	case c == '"':
		return appendJSONString(dst, b, i)
	default:
		end, _ := rawjson.Skip(b, i)
		if c == '-' || c-'0' <= 9 {
			if exact, ok := appendExact(dst, b[i:end]); ok {
				return exact, end
			}
		}
		return append(dst, b[i:end]...), end
	}
}

func appendJSONString(dst, b []byte, i int) ([]byte, int) {
	end, _ := rawjson.Skip(b, i)
	text := rawjson.Text(b[i:end])
	if !portable(text) {
		text = appendText(nil, text)
	}
	return rawjson.AppendQuoted(dst, text), end
}

func appendArray(dst, b []byte, i int) ([]byte, int) {
	dst = append(dst, '[')
	i = rawjson.SkipSpace(b, i+1)
	for b[i] != ']' {
		if b[i] == ',' {
			dst = append(dst, ',')
			i = rawjson.SkipSpace(b, i+1)
		}
		dst, i = appendJSON(dst, b, i)
		i = rawjson.SkipSpace(b, i)
	}
	return append(dst, ']'), i + 1
}

// memberSpan is the position of an object member in the canonical text. The quoted name is in
// [start, colon), and the value in [colon+1, end).
type memberSpan struct{ start, colon, end int }

func appendObject(dst, b []byte, i int) ([]byte, int) {
	var members []memberSpan
	open := len(dst)
	dst = append(dst, '{')
	i = rawjson.SkipSpace(b, i+1)
	for b[i] != '}' {
		if b[i] == ',' {
			i = rawjson.SkipSpace(b, i+1)
		}
		if len(members) > 0 {
			dst = append(dst, ',')
		}
		m := memberSpan{start: len(dst)}
		dst, i = appendJSONString(dst, b, i)
		m.colon = len(dst)
		dst = append(dst, ':')
		i = rawjson.SkipSpace(b, i)                            // to the colon
		dst, i = appendJSON(dst, b, rawjson.SkipSpace(b, i+1)) // past the colon
		i = rawjson.SkipSpace(b, i)
		m.end = len(dst)
		members = append(members, m)
	}
	return append(sortMembers(dst, open+1, members), '}'), i + 1
}

// sortMembers sorts the object members in dst[start:] by name. Of members that share a name, it
// keeps the last one.
func sortMembers(dst []byte, start int, members []memberSpan) []byte {
	byName := func(x, y memberSpan) int { return bytes.Compare(dst[x.start:x.colon], dst[y.start:y.colon]) }
	ascending := true
	for k := 1; k < len(members); k++ {
		ascending = ascending && byName(members[k-1], members[k]) < 0
	}
	if ascending {
		return dst
	}
	slices.SortStableFunc(members, byName)
	sorted := make([]byte, 0, len(dst)-start)
	for k, m := range members {
		if k+1 < len(members) && byName(m, members[k+1]) == 0 {
			continue
		}
		if len(sorted) > 0 {
			sorted = append(sorted, ',')
		}
		sorted = append(sorted, dst[m.start:m.end]...)
	}
	return append(dst[:start], sorted...)
}
