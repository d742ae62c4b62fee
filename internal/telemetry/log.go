// Package telemetry provides logs, metrics and health.
package telemetry

import (
	"io"
	"log/slog"
)

// LogOptions configure a logger.
type LogOptions struct {
	Console io.Writer // one write at a time
	JSON    bool      // one JSON object per line instead of text
	Color   bool      // text only: with terminal colours
	Time    bool      // text only: begin each line with the time

	Verbose bool   // include debug records
	Silent  bool   // the console gets errors only, even with Verbose
	Label   string // of every record; "": none

	// File gets every record as JSON; nil: none. Each write is one whole line, and writes do
	// not overlap.
	File io.Writer
}

// NewLogger returns a logger that redacts records before it writes them.
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

// newJSONHandler returns a handler that writes each record as a line of JSON, with durations
// as text such as 1.5s.
func newJSONHandler(w io.Writer, level slog.Level) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}})
}
