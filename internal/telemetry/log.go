// Package telemetry is what the program tells about itself: logs, metrics and
// health.
package telemetry

import (
	"io"
	"log/slog"
)

// LogOptions say where log records go and how they look.
type LogOptions struct {
	Console io.Writer // writes are serialised
	JSON    bool      // one JSON object a line rather than text for people
	Color   bool      // text only: with terminal colours
	Time    bool      // text only: begin each line with the time

	Verbose bool   // debug records too
	Silent  bool   // the console gets errors only, whatever Verbose says
	Label   string // that every record carries; "" for none

	// File gets every record as JSON; nil for none. It is written one whole
	// line at a time, serially.
	File io.Writer
}

// NewLogger returns a logger whose records are redacted before anything is
// written.
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

// newJSONHandler returns a handler that writes a record as a line of JSON, with
// durations as people read them.
func newJSONHandler(w io.Writer, level slog.Level) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}})
}
