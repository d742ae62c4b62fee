package reconciler

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

// desired is what the reconciler is to do.
type desired struct {
	state.Desired              // the part that survives the process
	destination   *Destination // to follow the stream into; nil: none yet
	job           *importJob   // of Import; nil: none
	filled        int          // counts the imports that filled a destination
}

// needsImport reports whether HQ has configured a destination that holds no snapshot,
// and will request an import.
func (d desired) needsImport() bool {
	return d.destination != nil && slices.Contains(d.NeedsImport, d.destination.Identity)
}

// beside reports whether the stream is followed while the import runs.
func (d desired) beside() bool { return d.Import != nil && d.Import.Beside }

// follows reports whether the stream is to be followed.
func (d desired) follows() bool { return d.obstacle() == "" }

// obstacle says why the stream is not to be followed; "" if it is.
func (d desired) obstacle() string {
	switch {
	case d.job != nil && !d.beside():
		return "an import is under way"
	case d.destination == nil:
		return "there is no destination yet; configure one at HQ"
	case !d.Paused.IsZero():
		return "HQ has paused this server"
	case d.needsImport():
		return "the destination was configured anew, and waits for an import"
	}
	return ""
}

// desiredState holds the present desired state. It is safe for concurrent use.
type desiredState struct {
	dir     *state.Dir
	mu      sync.Mutex
	desired desired
	changed chan struct{} // closed at the next change; nil if no caller waits
}

// now returns the present desired state, and a channel that is closed when it
// changes.
func (s *desiredState) now() (desired, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.desired, s.changed
}

// change applies do once its result is on disk. If do or the disk fails, nothing
// changes.
func (s *desiredState) change(do func(*desired) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.desired
	next.NeedsImport, next.Answers = slices.Clone(next.NeedsImport), slices.Clone(next.Answers)
	next.Healed = slices.Clone(next.Healed)
	if err := do(&next); err != nil {
		return err
	}
	if !reflect.DeepEqual(next.Desired, s.desired.Desired) {
		if err := s.dir.SetDesired(next.Desired); err != nil {
			return fmt.Errorf("remember what this server is to do: %w", err)
		}
	}
	s.desired = next
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return nil
}

// await waits until the desired state is as reached says, or ctx ends.
func (s *desiredState) await(ctx context.Context, reached func(desired) bool) {
	for {
		now, changed := s.now()
		if reached(now) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// awaitOther waits until anything but following the stream into d is desired.
func (s *desiredState) awaitOther(ctx context.Context, d *Destination) {
	s.await(ctx, func(now desired) bool { return now.destination != d || !now.follows() })
}

// restore continues what an earlier process was asked for, with the destination d; nil:
// there is none. A request for an import into another destination has failed.
func (r *Reconciler) restore(d *Destination) error {
	recorded, err := r.State.Desired()
	if err != nil {
		return err
	}
	r.desired.desired.Desired = recorded
	var job *importJob
	if i := recorded.Import; i != nil {
		q := ImportRequest{ID: i.ID, HQ: i.HQ}
		if err := json.Unmarshal(i.Options, &q.Options); err != nil {
			return fmt.Errorf("read the import that was requested: %w", err)
		}
		job = r.newJob(q, d)
	}
	filled := false
	if d != nil && job == nil {
		if filled, err = r.State.Filled(d.Destination); err != nil {
			return err
		}
	}
	return r.desired.change(func(now *desired) error {
		now.destination, now.job = d, job
		if filled { // by the operator's import
			now.fill(d)
		}
		if job != nil && (d == nil || d.Identity != recorded.Import.Destination) {
			now.finish(job, errOtherDestination)
			job.finish(errOtherDestination)
		}
		return nil
	})
}

// fill notes that d needs no import any more.
func (d *desired) fill(at *Destination) {
	d.NeedsImport = slices.DeleteFunc(d.NeedsImport, func(identity string) bool { return identity == at.Identity })
	if len(d.NeedsImport) == 0 {
		d.NeedsImport = nil
	}
}

// finish ends the import of the job, whose outcome HQ has yet to receive if it asked.
func (d *desired) finish(job *importJob, err error) {
	d.job, d.Import = nil, nil
	if !job.HQ {
		return
	}
	answer := state.ImportOutcome{ID: job.ID}
	switch {
	case err != nil:
		answer.Error = err.Error()
	case job.report.Refused > 0:
		answer.Note = snapshot.RefusedError{Rows: job.report.Refused}.Error()
	}
	d.Answers = append(d.Answers, answer)
}

// SetDestination has the stream followed into d, after keep has saved its configuration.
// If d holds no snapshot, that waits for an import. An import into another destination is
// canceled. If keep fails, the destination stays as it was.
func (r *Reconciler) SetDestination(d *Destination, keep func() error) error {
	snapshots, err := r.State.Snapshots(d.Destination)
	if err != nil {
		return err
	}
	filled, err := r.State.Filled(d.Destination)
	if err != nil {
		return err
	}
	// First, because after a crash the configuration alone would have the stream followed.
	err = r.desired.change(func(now *desired) error {
		switch {
		case len(snapshots) == 0 && !slices.Contains(now.NeedsImport, d.Identity):
			now.NeedsImport = append(now.NeedsImport, d.Identity)
		case filled:
			now.fill(d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := keep(); err != nil {
		return err
	}
	var job *importJob
	err = r.desired.change(func(now *desired) error {
		now.destination, job = d, now.job
		return nil
	})
	if err == nil && job != nil && job.destination.Identity != d.Identity {
		r.cancelImport(job, errOtherDestination)
	}
	return err
}

// Destination returns the desired destination, nil if there is none yet.
func (r *Reconciler) Destination() *Destination {
	desired, _ := r.desired.now()
	return desired.destination
}

// Pause stops applying changes, or resumes it, also over restarts. A pause that lasts
// already goes on.
func (r *Reconciler) Pause(on bool) error {
	return r.desired.change(func(d *desired) error {
		switch {
		case !on:
			d.Paused = time.Time{}
		case d.Paused.IsZero():
			d.Paused = time.Now().UTC()
		}
		return nil
	})
}

// Paused returns since when changes are not applied; zero if they are.
func (r *Reconciler) Paused() time.Time {
	desired, _ := r.desired.now()
	return desired.Paused
}

// AwaitAnswer waits for the outcome of an import that HQ requested and has not received,
// and returns the oldest. It returns false if ctx ends first.
func (r *Reconciler) AwaitAnswer(ctx context.Context) (a state.ImportOutcome, ok bool) {
	r.desired.await(ctx, func(now desired) bool {
		if ok = len(now.Answers) > 0; ok {
			a = now.Answers[0]
		}
		return ok
	})
	return a, ok
}

// Answered records that HQ has received the outcome of the import.
func (r *Reconciler) Answered(id string) error {
	return r.desired.change(func(d *desired) error {
		d.Answers = slices.DeleteFunc(d.Answers, func(a state.ImportOutcome) bool { return a.ID == id })
		if len(d.Answers) == 0 {
			d.Answers = nil
		}
		return nil
	})
}
