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

// State is where an upgrade stands.
type State uint8

const (
	// Settled: no upgrade is under way.
	Settled State = iota
	// Probation: the new program is in place and has yet to prove itself.
	Probation
	// Reverted: the old program is in place again, and nobody has been told.
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

// Standing says where an upgrade stands. All but State is zero where it is Settled.
type Standing struct {
	State    State
	From, To string    // versions
	Began    time.Time // of the swap
	Attempts int       // starts of the new program that Attempt has counted
	Reason   string    // of going back
}

// note is the file that tells of an upgrade. Its form must stay readable by the
// versions before and after.
type note struct {
	From     string    `json:"from"`
	To       string    `json:"to"`
	FromSum  string    `json:"fromSum"` // SHA-256 of the program that was in place
	ToSum    string    `json:"toSum"`   // and of the one that replaced it
	Began    time.Time `json:"began"`
	Attempts int       `json:"attempts,omitempty"`
	Reason   string    `json:"reason,omitempty"` // not empty: go back
}

func (n *note) standing(s State) Standing {
	return Standing{State: s, From: n.From, To: n.To, Began: n.Began, Attempts: n.Attempts, Reason: n.Reason}
}

// phase is what the note and the disk say together.
type phase uint8

const (
	noNote    phase = iota
	outdated        // the old program is in place, or one of somebody else's
	onTrial         // the new program is in place
	goingBack       // the new program is in place, and shall not stay
	wentBack        // the old program is in place again
	missing         // none is in place
)

func (u *Updater) phase() (phase, *note, error) {
	n, err := u.readNote()
	if err != nil || n == nil {
		return noNote, nil, err
	}
	sum, err := sumFile(u.target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing, n, nil
	case err != nil:
		return noNote, nil, fmt.Errorf("look at the program in place: %w", err)
	case sum == n.ToSum && n.Reason != "":
		return goingBack, n, nil
	case sum == n.ToSum:
		return onTrial, n, nil
	case sum == n.FromSum && n.Reason != "":
		return wentBack, n, nil
	}
	return outdated, n, nil
}

// Standing says where an upgrade stands, and changes nothing. What a power cut
// interrupted counts as what Recover would make of it.
func (u *Updater) Standing() (Standing, error) {
	p, n, err := u.phase()
	if err != nil {
		return Standing{}, err
	}
	switch p {
	case onTrial:
		return n.standing(Probation), nil
	case goingBack, wentBack:
		return n.standing(Reverted), nil
	}
	return Standing{}, nil
}

// Recover finishes what a power cut interrupted, and says where the upgrade stands.
// A server calls it when it starts.
func (u *Updater) Recover() (Standing, error) {
	p, n, err := u.phase()
	if err != nil {
		return Standing{}, err
	}
	switch p {
	case onTrial:
		return n.standing(Probation), nil
	case wentBack:
		return n.standing(Reverted), nil
	case goingBack:
		if err := u.putBack(n); err != nil {
			return Standing{}, err
		}
		return n.standing(Reverted), nil
	case missing:
		if err := u.putBack(n); err != nil {
			return Standing{}, err
		}
		return u.Recover()
	case outdated:
		return Standing{}, u.Commit()
	}
	return Standing{}, nil
}

// Attempt is Recover for a server that starts: on probation it counts the start,
// durably, and where there were more than most of them without a Commit it goes
// back. So a program that ends before anybody can judge it is found out, too.
func (u *Updater) Attempt(ctx context.Context, most int) (Standing, error) {
	standing, err := u.Recover()
	if err != nil || standing.State != Probation {
		return standing, err
	}
	n, err := u.readNote()
	if err != nil || n == nil {
		return Standing{}, err
	}
	n.Attempts++
	if err := u.writeNote(*n); err != nil {
		return standing, fmt.Errorf("count a start in %s: %w", u.notePath(), cause(err))
	}
	if n.Attempts <= most {
		return n.standing(Probation), nil
	}
	if err := u.Rollback(ctx, fmt.Sprintf("it was started %d times and did not prove itself", most)); err != nil {
		return n.standing(Probation), err
	}
	return u.Standing()
}

// Commit removes the note and nothing else: the new program has proved itself, or
// the way back has been reported.
func (u *Updater) Commit() error {
	err := os.Remove(u.notePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.SyncDir(u.dir())
	}
	if err != nil {
		return fmt.Errorf("end the probation: remove %s: %w", u.notePath(), cause(err))
	}
	return nil
}

// maxNote bounds the note, in bytes.
const maxNote = 64 << 10

// readNote returns the note, or nil where there is none. One that can't be read as
// one is none: the program in place is whole, whatever it says.
func (u *Updater) readNote() (*note, error) {
	f, err := os.Open(u.notePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read where the upgrade stands: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err != nil {
		return nil, fmt.Errorf("read where the upgrade stands: %w", err)
	}
	n := new(note)
	if json.Unmarshal(text, n) != nil {
		u.o.Logger.Warn("the note of an upgrade is damaged and is not heeded", "file", u.notePath())
		return nil, nil
	}
	return n, nil
}

// writeNote replaces the note whole. Every user may read it, as the server may be
// another one than who upgrades it.
func (u *Updater) writeNote(n note) error {
	text, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	temporary := u.scratchPattern()
	err = durable.Replace(u.notePath(), temporary, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return err
	}
	return os.Chmod(u.notePath(), 0o644)
}
