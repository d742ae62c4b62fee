package tds

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is a token of T-SQL.
type token struct {
	kind byte   // 'w' word, 'q' quoted name, 's' string, 'n' number, '@' parameter, 'p' punctuation
	text string // without the quotes of a quoted name or a string
}

func (t token) is(word string) bool {
	return (t.kind == 'w' || t.kind == 'p') && strings.EqualFold(t.text, word)
}

// lex splits a text into tokens.
func lex(text string) ([]token, error) {
	var tokens []token
	for text != "" {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case unicode.IsSpace(r):
			text = text[n:]
			continue
		case r == '[':
			name, rest, ok := delimited(text[1:], ']')
			if !ok {
				return nil, syntaxError(text)
			}
			tokens, text = append(tokens, token{'q', name}), rest
			continue
		case r == '\'' || (r == 'N' || r == 'n') && strings.HasPrefix(text[1:], "'"):
			value, rest, ok := delimited(text[strings.IndexByte(text, '\'')+1:], '\'')
			if !ok {
				return nil, syntaxError(text)
			}
			tokens, text = append(tokens, token{'s', value}), rest
			continue
		case r == '@' || r == '_' || unicode.IsLetter(r):
			end := strings.IndexFunc(text, func(r rune) bool { return r != '@' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
			if end < 0 {
				end = len(text)
			}
			kind := byte('w')
			if r == '@' {
				kind = '@'
			}
			tokens, text = append(tokens, token{kind, text[:end]}), text[end:]
			continue
		case unicode.IsDigit(r):
			end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && !unicode.IsDigit(r) })
			if end < 0 {
				end = len(text)
			}
			tokens, text = append(tokens, token{'n', text[:end]}), text[end:]
			continue
		}
		for _, two := range []string{"<>", "<=", ">="} {
			if strings.HasPrefix(text, two) {
				n = 2
			}
		}
		if !strings.ContainsAny(text[:n], "()<>=,.;+-*") {
			return nil, syntaxError(text)
		}
		tokens, text = append(tokens, token{'p', text[:n]}), text[n:]
	}
	return tokens, nil
}

// delimited reads text up to the given delimiter. A doubled delimiter stands for one character of
// the value.
func delimited(text string, end byte) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == end {
			if i+1 < len(text) && text[i+1] == end {
				i++
			} else {
				return b.String(), text[i+1:], true
			}
		}
		b.WriteByte(text[i])
	}
	return "", "", false
}

// splitTop splits tokens at each mark that is outside parentheses.
func splitTop(tokens []token, mark string) [][]token {
	var parts [][]token
	start, depth := 0, 0
	for i, t := range tokens {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth == 0 && t.is(mark):
			parts = append(parts, tokens[start:i])
			start = i + 1
		}
	}
	if start < len(tokens) {
		parts = append(parts, tokens[start:])
	}
	return parts
}

// find returns the index of the first occurrence of the words outside parentheses, or -1 if there
// is none.
func find(tokens []token, words ...string) int {
	depth := 0
	for i, t := range tokens {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth == 0 && begins(tokens[i:], words...):
			return i
		}
	}
	return -1
}

// begins reports whether tokens start with the words.
func begins(tokens []token, words ...string) bool {
	if len(tokens) < len(words) {
		return false
	}
	for i, w := range words {
		if !tokens[i].is(w) {
			return false
		}
	}
	return true
}

// closing returns the index of the parenthesis that closes the parenthesis at index open, or -1 if
// there is none.
func closing(tokens []token, open int) int {
	depth := 0
	for i := open; i < len(tokens); i++ {
		switch {
		case tokens[i].is("("):
			depth++
		case tokens[i].is(")"):
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// plain returns the text of the tokens with one space between them.
func plain(tokens []token) string {
	var parts []string
	for _, t := range tokens {
		switch t.kind {
		case 'q':
			parts = append(parts, "["+strings.ReplaceAll(t.text, "]", "]]")+"]")
		case 's':
			parts = append(parts, "N'"+strings.ReplaceAll(t.text, "'", "''")+"'")
		default:
			parts = append(parts, t.text)
		}
	}
	return strings.Join(parts, " ")
}
