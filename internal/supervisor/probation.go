package supervisor

import (
	"errors"
	"fmt"
)

// Note informs the next worker about an event that happened before that worker was started.
type Note struct {
	Upgrade *Upgraded `json:"upgrade,omitempty"`
}

// Upgraded is the outcome of an upgrade. It is meant for the worker that runs after the upgrade.
type Upgraded struct {
	Version string `json:"version"`
	Before  string `json:"-"` // the replaced version; not sent to the worker
	Failed  bool   `json:"failed,omitempty"`
	Reason  string `json:"reason,omitempty"` // why the upgrade failed, or ""
}

// upgrade is an upgrade on probation.
type upgrade struct {
	version string
	before  string // the replaced version
}

// failsProbation reports whether the upgrade has failed, given how the upgraded worker has
// ended.
func (e ending) failsProbation() bool {
	switch {
	case e.stopped || e.killed:
		return false // the operator ended it
	case e.kind() != "":
		return true
	case e.code == CodeRestart:
		return !e.ready
	default:
		return e.code != CodeOK
	}
}

// resume continues an upgrade that is recorded on disk, but is not on probation in this process.
// An earlier process began that upgrade, or the last outcome of the upgrade could not be
// recorded.
func (s *supervisor) resume() {
	if s.Upgrader == nil || s.probation != nil || s.unreported {
		return
	}
	switch u := s.Upgrader.Status(); {
	case u == nil:
	case u.Failed:
		s.unreported = true
		s.upgradeFailed(u.Version, u.Reason)
	default:
		s.Logger.Info("the last upgrade is on probation", "version", u.Version)
		s.begin(u.Version, u.Before)
	}
}

// begin puts the new version on probation. The second argument is the version that was replaced.
func (s *supervisor) begin(version, before string) {
	s.probation, s.unreported = &upgrade{version: version, before: before}, false
	s.Version = version
	s.note = Note{Upgrade: &Upgraded{Version: version}}
}

// beginUpgrade swaps the binary, as the ended worker has requested. If the swap fails, the next
// worker is informed of the reason.
func (s *supervisor) beginUpgrade(e ending) {
	version := e.upgrade.Version
	if err := s.swap(e); err != nil {
		s.upgradeFailed(version, err.Error())
		return
	}
	s.Logger.Info("the binary was swapped and is on probation", "version", version, "before", s.Version)
	s.begin(version, s.Version)
}

func (s *supervisor) swap(e ending) error {
	switch {
	case s.Upgrader == nil:
		return fmt.Errorf("this server cannot replace its own binary")
	case s.probation != nil:
		return fmt.Errorf("version %s is still on probation; try again in %s", s.probation.version, s.Limits.Stable)
	case e.kind() != "":
		return fmt.Errorf("the worker that requested it crashed: %s", e.describe(s.Limits))
	}
	if err := s.Upgrader.Swap(e.upgrade.Staged); err != nil {
		return fmt.Errorf("swap the binary: %w", err)
	}
	return nil
}

// rollBack tries to restore the old binary after the upgraded worker has ended. The parameter e
// describes the worker's end. The result says whether the old binary has been restored.
func (s *supervisor) rollBack(e ending) bool {
	err := s.Upgrader.Rollback(e.describe(s.Limits))
	if errors.Is(err, ErrSettled) {
		s.Logger.Warn("the upgrade is not rolled back, because it was accepted meanwhile", "version", s.probation.version)
		s.probation = nil
		return false
	}
	if err != nil {
		s.Logger.Error("the old binary cannot be restored", "version", s.probation.version, "reason", e.describe(s.Limits), "error", err)
		return false
	}
	failed := s.probation
	s.probation, s.Version, s.unreported = nil, failed.before, true
	s.upgradeFailed(failed.version, e.describe(s.Limits))
	return true
}

func (s *supervisor) upgradeFailed(version, reason string) {
	s.Logger.Error("the upgrade failed; the old binary continues", "version", version, "reason", reason)
	s.note = Note{Upgrade: &Upgraded{Version: version, Failed: true, Reason: reason}}
}

// reported is called when a worker becomes ready. That worker has received the note, so the
// note is cleared.
func (s *supervisor) reported() {
	s.note = Note{}
	if !s.unreported {
		return
	}
	s.unreported = false
	if err := s.Upgrader.Commit(); err != nil {
		s.Logger.Warn("the report of the rolled back upgrade cannot be recorded; it will be repeated", "error", err)
	}
}

// confirm ends the probation successfully. If the new state cannot be recorded, the next worker
// starts with a new probation, which is harmless.
func (s *supervisor) confirm() {
	version := s.probation.version
	s.probation = nil
	if err := s.Upgrader.Commit(); err != nil {
		s.Logger.Error("the probation has passed, but that cannot be recorded", "version", version, "error", err)
		return
	}
	s.Logger.Info("the upgrade has passed its probation", "version", version)
}
