package selfupdate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// State is the state of the last upgrade.
type State uint8

const (
	// Settled means that no upgrade is in progress.
	Settled State = iota
	// Probation means that the new program is installed and on probation.
	Probation
	// Reverted means that the old program is installed again, and that the rollback was not
	// reported yet.
	Reverted
)

func (s State) String() string {
	switch s {
	case Probation:
		return "on probation"
	case Reverted:
		return "reverted"
	default:
		return "settled"
	}
}

// Status describes the last upgrade. If State is Settled, the other fields are zero.
type Status struct {
	State    State
	From, To string    // versions
	Began    time.Time // time of the swap
	Attempts int       // starts of the new program that Attempt has counted
	Reason   string    // reason of the rollback, or ""
}

// upgradeJournal is the content of the journal, the file that records an upgrade. Older and
// newer versions of the program must be able to read it.
type upgradeJournal struct {
	From     string    `json:"from"`
	To       string    `json:"to"`
	FromSum  string    `json:"fromSum"` // SHA-256 of the replaced program
	ToSum    string    `json:"toSum"`   // SHA-256 of the new program
	Began    time.Time `json:"began"`
	Attempts int       `json:"attempts,omitempty"`
	Reason   string    `json:"reason,omitempty"` // reason of a rollback, or "" if no rollback has begun
}

func (j *upgradeJournal) status(s State) Status {
	return Status{State: s, From: j.From, To: j.To, Began: j.Began, Attempts: j.Attempts, Reason: j.Reason}
}

// upgradePhase is the progress of an upgrade or rollback, derived from the journal and the
// installed program.
type upgradePhase uint8

const (
	noJournal   upgradePhase = iota
	outdated                 // the old program or an unknown one is installed
	onProbation              // the new program is installed
	goingBack                // the new program is installed, and a rollback has begun
	wentBack                 // the old program is installed again
	missing                  // no program is installed
)

func (u *Updater) phase() (upgradePhase, *upgradeJournal, error) {
	j, err := u.readJournal()
	if err != nil || j == nil {
		return noJournal, nil, err
	}
	sum, err := sumFile(u.target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing, j, nil
	case err != nil:
		return noJournal, nil, fmt.Errorf("read the installed program: %w", err)
	case sum == j.ToSum && j.Reason != "":
		return goingBack, j, nil
	case sum == j.ToSum:
		return onProbation, j, nil
	case sum == j.FromSum && j.Reason != "":
		return wentBack, j, nil
	}
	return outdated, j, nil
}

// Status returns the state of the last upgrade, and changes nothing. If a power cut has
// interrupted the upgrade, Status returns the state that Recover would lead to.
func (u *Updater) Status() (Status, error) {
	p, j, err := u.phase()
	if err != nil {
		return Status{}, err
	}
	return j.statusIn(p), nil
}

// statusIn returns the state of the upgrade in the phase p. In the phase noJournal, j is nil.
func (j *upgradeJournal) statusIn(p upgradePhase) Status {
	switch p {
	case onProbation:
		return j.status(Probation)
	case goingBack, wentBack:
		return j.status(Reverted)
	}
	return Status{}
}

// Recover completes an upgrade or rollback that a power cut has interrupted, and returns the
// resulting state. A starting server calls Recover.
func (u *Updater) Recover() (Status, error) {
	p, j, err := u.phase()
	if err != nil {
		return Status{}, err
	}
	switch p {
	case goingBack:
		if err := u.restore(j); err != nil {
			return Status{}, err
		}
	case missing:
		if err := u.restore(j); err != nil {
			return Status{}, err
		}
		return u.Recover()
	case outdated:
		return Status{}, u.Commit()
	}
	return j.statusIn(p), nil
}

// Attempt calls Recover for a starting server. If a program is on probation, Attempt also counts
// the start durably. If there were more than the given number of starts without a Commit, Attempt
// rolls back. This handles a program that always ends before the server can decide that the
// probation has failed.
func (u *Updater) Attempt(ctx context.Context, most int) (Status, error) {
	status, err := u.Recover()
	if err != nil || status.State != Probation {
		return status, err
	}
	j, err := u.readJournal()
	if err != nil || j == nil {
		return Status{}, err
	}
	j.Attempts++
	if err := u.writeJournal(*j); err != nil {
		return status, fmt.Errorf("count a start in %s: %w", u.journalPath(), cause(err))
	}
	if j.Attempts <= most {
		return j.status(Probation), nil
	}
	if err := u.Rollback(ctx, fmt.Sprintf("it was started %d times and did not pass its probation", most)); err != nil {
		return j.status(Probation), err
	}
	return u.Status()
}

// Commit removes the journal, and changes nothing else. It is called after the new program has
// passed its probation, or after its rollback was reported.
func (u *Updater) Commit() error {
	err := os.Remove(u.journalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.SyncDir(u.dir())
	}
	if err != nil {
		return fmt.Errorf("end the probation: remove %s: %w", u.journalPath(), cause(err))
	}
	return nil
}

// maxJournal is the maximum size of the journal, in bytes.
const maxJournal = 64 << 10

// readJournal returns the journal, or nil if there is no journal. It also returns nil for a
// damaged journal, because the installed program is complete in any case.
func (u *Updater) readJournal() (*upgradeJournal, error) {
	f, err := os.Open(u.journalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of the upgrade: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxJournal))
	if err != nil {
		return nil, fmt.Errorf("read the journal of the upgrade: %w", err)
	}
	j := new(upgradeJournal)
	if json.Unmarshal(text, j) != nil {
		u.o.Logger.Warn("the journal of an upgrade is damaged; ignoring it", "file", u.journalPath())
		return nil, nil
	}
	return j, nil
}

// writeJournal replaces the journal atomically. All users may read it, because the server may
// run as a user other than the operator.
func (u *Updater) writeJournal(j upgradeJournal) error {
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	temporary := u.scratchPattern()
	err = durable.Replace(u.journalPath(), temporary, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return err
	}
	return os.Chmod(u.journalPath(), 0o644)
}
