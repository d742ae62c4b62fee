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

// desired is the desired state.
type desired struct {
	state.Desired              // the part that survives the process
	destination   *Destination // to follow the stream into; nil: none yet
	job           *importJob   // of Import; nil: none
	filled        int          // number of imports that filled a destination
}

// needsImport reports whether HQ has configured a destination that holds no snapshot. HQ
// requests an import next.
func (d desired) needsImport() bool {
	return d.destination != nil && slices.Contains(d.NeedsImport, d.destination.Identity)
}

// beside reports whether the import runs beside the followed stream.
func (d desired) beside() bool { return d.Import != nil && d.Import.Beside }

// follows reports whether the stream shall be followed.
func (d desired) follows() bool { return d.obstacle() == "" }

// obstacle returns why the stream shall not be followed; "" if it shall.
func (d desired) obstacle() string {
	switch {
	case d.job != nil && !d.beside():
		return "an import is under way"
	case d.destination == nil:
		return "there is no destination yet; configure one at HQ"
	case !d.Paused.IsZero():
		return "HQ has paused this server"
	case d.needsImport():
		return "the destination is newly configured and waits for an import"
	}
	return ""
}

// desiredState holds the current desired state. It is safe for concurrent use.
type desiredState struct {
	dir     *state.Dir
	mu      sync.Mutex
	desired desired
	changed chan struct{} // closed at the next change; nil if no caller waits
}

// now returns the current desired state, and a channel that is closed when it changes.
func (s *desiredState) now() (desired, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.desired, s.changed
}

// change lets do edit the desired state, and applies the result once it is on disk. If do or
// the disk fails, nothing changes.
func (s *desiredState) change(do func(*desired) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.desired
	next.NeedsImport, next.Outcomes = slices.Clone(next.NeedsImport), slices.Clone(next.Outcomes)
	next.Healed = slices.Clone(next.Healed)
	if err := do(&next); err != nil {
		return err
	}
	if !reflect.DeepEqual(next.Desired, s.desired.Desired) {
		if err := s.dir.SetDesired(next.Desired); err != nil {
			return fmt.Errorf("record the desired state: %w", err)
		}
	}
	s.desired = next
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return nil
}

// await waits until reached returns true for the desired state, or ctx ends.
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

// awaitOther waits until the stream shall no longer be followed into d, or ctx ends.
func (s *desiredState) awaitOther(ctx context.Context, d *Destination) {
	s.await(ctx, func(now desired) bool { return now.destination != d || !now.follows() })
}

// restore continues requests to an earlier process, with the destination d; nil: there is
// none. A requested import into another destination fails.
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
			return fmt.Errorf("read the requested import: %w", err)
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

// fill records that a destination no longer needs an import.
func (d *desired) fill(at *Destination) {
	d.NeedsImport = slices.DeleteFunc(d.NeedsImport, func(identity string) bool { return identity == at.Identity })
	if len(d.NeedsImport) == 0 {
		d.NeedsImport = nil
	}
}

// finish records that the job has ended. If HQ requested it, HQ has yet to receive the outcome.
func (d *desired) finish(job *importJob, err error) {
	d.job, d.Import = nil, nil
	if !job.HQ {
		return
	}
	outcome := state.ImportOutcome{ID: job.ID}
	switch {
	case err != nil:
		outcome.Error = err.Error()
	case job.report.Refused > 0:
		outcome.Note = snapshot.RefusedError{Rows: job.report.Refused}.Error()
	}
	d.Outcomes = append(d.Outcomes, outcome)
}

// SetDestination makes d the desired destination, after save has saved its configuration.
// If d holds no snapshot, following the stream waits for an import. SetDestination cancels an
// import into another destination. If save fails, the destination stays the same.
func (r *Reconciler) SetDestination(d *Destination, save func() error) error {
	snapshots, err := r.State.Snapshots(d.Destination)
	if err != nil {
		return err
	}
	filled, err := r.State.Filled(d.Destination)
	if err != nil {
		return err
	}
	// This comes first: after a crash, the saved configuration alone would start the pipeline.
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
	if err := save(); err != nil {
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

// Destination returns the desired destination; nil if there is none yet.
func (r *Reconciler) Destination() *Destination {
	desired, _ := r.desired.now()
	return desired.destination
}

// Pause stops or resumes applying changes. The pause survives restarts. To pause again changes
// nothing.
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

// Paused returns when the pause began; zero if there is none.
func (r *Reconciler) Paused() time.Time {
	desired, _ := r.desired.now()
	return desired.Paused
}

// AwaitOutcome waits for the outcome of an import that HQ requested, and returns the oldest
// that HQ has not received. It returns false if ctx ends first.
func (r *Reconciler) AwaitOutcome(ctx context.Context) (o state.ImportOutcome, ok bool) {
	r.desired.await(ctx, func(now desired) bool {
		if ok = len(now.Outcomes) > 0; ok {
			o = now.Outcomes[0]
		}
		return ok
	})
	return o, ok
}

// OutcomeReceived records that HQ has received the outcome of the import.
func (r *Reconciler) OutcomeReceived(id string) error {
	return r.desired.change(func(d *desired) error {
		d.Outcomes = slices.DeleteFunc(d.Outcomes, func(o state.ImportOutcome) bool { return o.ID == id })
		if len(d.Outcomes) == 0 {
			d.Outcomes = nil
		}
		return nil
	})
}
