package telemetry

import (
	"bytes"
	"context"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// textHandler writes records as lines of text:
//
//	INFO  snapshot loaded  table=order rows=1200 took=1.2s
//
// Control characters are escaped, so that a record cannot span several lines or send escape
// sequences to a terminal.
type textHandler struct {
	out    *lockedWriter
	level  slog.Leveler
	color  bool
	time   bool
	prefix string // prefix of keys: the names of the open groups, each followed by a dot
	fixed  []byte // formatted attributes of WithAttrs
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func newTextHandler(w io.Writer, level slog.Leveler, color, withTime bool) *textHandler {
	return &textHandler{out: &lockedWriter{w: w}, level: level, color: color, time: withTime}
}

func (h *textHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *textHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.prefix += name + "."
	return &c
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.fixed = bytes.Clone(h.fixed)
	for _, a := range attrs {
		c.fixed = c.appendAttr(c.fixed, c.prefix, a)
	}
	return &c
}

// timeLayout formats the local time with a fixed width. It includes milliseconds, which show
// the order of records.
const timeLayout = "2006-01-02 15:04:05.000"

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	line := make([]byte, 0, 256)
	if h.time && !r.Time.IsZero() {
		line = h.paint(line, faint, r.Time.Format(timeLayout))
		line = append(line, ' ')
	}
	line = h.appendLevel(line, r.Level)
	line = appendPlain(line, r.Message)
	if len(h.fixed) > 0 || r.NumAttrs() > 0 {
		line = append(line, ' ')
	}
	line = append(line, h.fixed...)
	r.Attrs(func(a slog.Attr) bool {
		line = h.appendAttr(line, h.prefix, a)
		return true
	})
	line = append(line, '\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(line)
	return err
}

// Colors, as parameters of SGR escape sequences.
const (
	faint  = "2"
	red    = "31"
	yellow = "33"
	green  = "32"
	cyan   = "36"
)

func (h *textHandler) paint(dst []byte, colour, text string) []byte {
	if !h.color {
		return append(dst, text...)
	}
	return append(append(append(dst, "\x1b["+colour+"m"...), text...), "\x1b[0m"...)
}

// appendLevel appends the name of the level and pads it to a fixed width.
func (h *textHandler) appendLevel(dst []byte, level slog.Level) []byte {
	colour := faint
	switch {
	case level >= slog.LevelError:
		colour = red
	case level >= slog.LevelWarn:
		colour = yellow
	case level >= slog.LevelInfo:
		colour = green
	}
	name := level.String()
	dst = h.paint(dst, colour, name)
	return append(dst, "      "[:max(1, 6-len(name))]...)
}

func (h *textHandler) appendAttr(dst []byte, prefix string, a slog.Attr) []byte {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range value.Group() {
			dst = h.appendAttr(dst, prefix, member)
		}
		return dst
	}
	if a.Equal(slog.Attr{}) {
		return dst
	}
	dst = append(dst, ' ')
	dst = h.paint(dst, cyan, string(appendPlain(nil, prefix+a.Key))+"=")
	return appendValue(dst, value)
}

func appendValue(dst []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindString:
		return appendQuotedIfNeeded(dst, v.String())
	case slog.KindTime:
		return v.Time().AppendFormat(dst, time.RFC3339Nano)
	case slog.KindAny:
		return appendQuotedIfNeeded(dst, anyText(v.Any()))
	default:
		return append(dst, v.String()...)
	}
}

func anyText(value any) string {
	switch value := value.(type) {
	case error:
		return value.Error()
	case encoding.TextMarshaler:
		if text, err := value.MarshalText(); err == nil {
			return string(text)
		}
	case []byte:
		return string(value)
	}
	return fmt.Sprintf("%+v", value)
}

// appendPlain appends text without quotes. It escapes characters that would break the line or
// control a terminal.
func appendPlain(dst []byte, text string) []byte {
	if !strings.ContainsFunc(text, unprintable) {
		return append(dst, text...)
	}
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if unprintable(r) {
			quoted := strconv.QuoteToASCII(text[i : i+n])
			dst = append(dst, quoted[1:len(quoted)-1]...)
		} else {
			dst = append(dst, text[i:i+n]...)
		}
		i += n
	}
	return dst
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

func appendQuotedIfNeeded(dst []byte, text string) []byte {
	ambiguous := func(r rune) bool { return r == ' ' || r == '"' || r == '=' || unprintable(r) }
	if text == "" || strings.ContainsFunc(text, ambiguous) {
		return strconv.AppendQuote(dst, text)
	}
	return append(dst, text...)
}
