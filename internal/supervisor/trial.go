package supervisor

import (
	"errors"
	"fmt"
)

// Note tells a worker what happened before its time.
type Note struct {
	Upgrade *Upgraded `json:"upgrade,omitempty"`
}

// Upgraded is how an upgrade went: the worker that reads it is the new one, or,
// where the upgrade has failed, the old one.
type Upgraded struct {
	Version string `json:"version"`
	Before  string `json:"-"` // the version that it took the place of, which the parent alone asks for
	Failed  bool   `json:"failed,omitempty"`
	Reason  string `json:"reason,omitempty"` // of the failure
}

// trial is an upgrade that has not proved itself yet.
type trial struct {
	version string
	before  string // the version that it took the place of
}

// failsTrial reports whether a worker that ended so has not proved itself.
func (e ending) failsTrial() bool {
	switch {
	case e.stopped || e.killed:
		return false // it was not its own end
	case e.kind() != "":
		return true
	case e.code == CodeRestart:
		return !e.ready
	default:
		return e.code != CodeOK
	}
}

// resume takes up an upgrade that nobody here has begun: it was under way when
// the power went, or the binary was exchanged before the worker crashed.
func (s *supervisor) resume() {
	if s.Upgrader == nil || s.trial != nil || s.untold {
		return
	}
	switch u := s.Upgrader.Standing(); {
	case u == nil:
	case u.Failed:
		s.untold = true
		s.upgradeFailed(u.Version, u.Reason)
	default:
		s.Logger.Info("the last upgrade has not proved itself yet", "version", u.Version)
		s.begin(u.Version, u.Before)
	}
}

// begin puts version, which took the place of another, on probation.
func (s *supervisor) begin(version, before string) {
	s.trial, s.untold = &trial{version: version, before: before}, false
	s.Version = version
	s.note = Note{Upgrade: &Upgraded{Version: version}}
}

// upgrade exchanges the binary as the worker that ended has asked. Where that
// can't be, the next worker hears why.
func (s *supervisor) upgrade(e ending) {
	version := e.upgrade.Version
	if err := s.swap(e); err != nil {
		s.upgradeFailed(version, err.Error())
		return
	}
	s.Logger.Info("the binary has been exchanged and is on probation", "version", version, "before", s.Version)
	s.begin(version, s.Version)
}

func (s *supervisor) swap(e ending) error {
	switch {
	case s.Upgrader == nil:
		return fmt.Errorf("this server can't exchange its own binary")
	case s.trial != nil:
		return fmt.Errorf("version %s is still on probation; ask again in %s", s.trial.version, s.Limits.Stable)
	case e.kind() != "":
		return fmt.Errorf("the worker that asked for it ended unexpectedly: %s", e.what(s.Limits))
	}
	if err := s.Upgrader.Swap(e.upgrade.Staged); err != nil {
		return fmt.Errorf("exchange the binary: %w", err)
	}
	return nil
}

// rollBack puts the old binary back after e, and reports whether it could.
func (s *supervisor) rollBack(e ending) bool {
	err := s.Upgrader.Rollback(e.what(s.Limits))
	if errors.Is(err, ErrSettled) {
		s.Logger.Warn("the upgrade is not taken back, because somebody has accepted it meanwhile", "version", s.trial.version)
		s.trial = nil
		return false
	}
	if err != nil {
		s.Logger.Error("the old binary can't be put back", "version", s.trial.version, "reason", e.what(s.Limits), "error", err)
		return false
	}
	failed := s.trial
	s.trial, s.Version, s.untold = nil, failed.before, true
	s.upgradeFailed(failed.version, e.what(s.Limits))
	return true
}

func (s *supervisor) upgradeFailed(version, reason string) {
	s.Logger.Error("the upgrade failed; the binary that was there before goes on", "version", version, "reason", reason)
	s.note = Note{Upgrade: &Upgraded{Version: version, Failed: true, Reason: reason}}
}

// told is called when a worker was ready that has heard how the last upgrade went.
func (s *supervisor) told() {
	s.note = Note{}
	if !s.untold {
		return
	}
	s.untold = false
	if err := s.Upgrader.Commit(); err != nil {
		s.Logger.Warn("it can't be recorded that the upgrade that was taken back has been reported; it is reported again", "error", err)
	}
}

// proved ends the probation. Where that can't be recorded the next worker has to
// prove itself anew, which is harmless.
func (s *supervisor) proved() {
	version := s.trial.version
	s.trial = nil
	if err := s.Upgrader.Commit(); err != nil {
		s.Logger.Error("the upgrade has proved itself, which can't be recorded", "version", version, "error", err)
		return
	}
	s.Logger.Info("the upgrade has proved itself", "version", version)
}
