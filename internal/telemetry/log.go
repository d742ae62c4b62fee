// Package telemetry provides logs, metrics and health.
package telemetry

import (
	"io"
	"log/slog"
)

// LogOptions configure a logger.
type LogOptions struct {
	Console io.Writer // receives one write at a time
	JSON    bool      // one JSON object per line instead of text
	Color   bool      // with terminal colors; for text only
	Time    bool      // start each line with the time; for text only

	Verbose bool   // include debug records
	Silent  bool   // write only errors to the console, even if Verbose is set
	Label   string // label of every record; "" for none

	// File receives every record as JSON, or is nil. Each write is one complete line, and
	// writes do not overlap.
	File io.Writer
}

// NewLogger returns a logger that masks secrets in records before it writes them.
func NewLogger(o LogOptions) *slog.Logger {
	level := slog.LevelInfo
	if o.Verbose {
		level = slog.LevelDebug
	}
	consoleLevel := level
	if o.Silent {
		consoleLevel = slog.LevelError
	}
	var handler slog.Handler
	if o.JSON {
		handler = newJSONHandler(o.Console, consoleLevel)
	} else {
		handler = newTextHandler(o.Console, consoleLevel, o.Color, o.Time)
	}
	if o.File != nil {
		handler = slog.NewMultiHandler(handler, newJSONHandler(o.File, level))
	}
	logger := slog.New(Redact(handler))
	if o.Label != "" {
		logger = logger.With("label", o.Label)
	}
	return logger
}

// newJSONHandler returns a handler that writes each record as one line of JSON. It writes
// durations as text, such as "1.5s".
func newJSONHandler(w io.Writer, level slog.Level) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}})
}
