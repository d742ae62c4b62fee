package cli

import (
	"errors"
	"os"
	"testing"
)

func TestSignals_EndOrReplaceAPrompt(t *testing.T) {
	var s signals
	if err := s.ask(); err != nil || !s.received(os.Interrupt) {
		t.Errorf("a signal does not interrupt a question (%v)", err)
	}
	s.answered()
	if s.received(os.Interrupt) {
		t.Error("a signal interrupts a question that was answered")
	}
	if err := s.ask(); !errors.As(err, new(interrupted)) {
		t.Errorf("a question is asked after a signal: %v", err)
	}
	if s.received(os.Interrupt) {
		t.Error("a signal interrupts a question that was not asked")
	}
}
