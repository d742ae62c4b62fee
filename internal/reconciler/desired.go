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

// desired is the desired state: the requests of HQ and the operator, and the objects that carry
// them out.
type desired struct {
	state.DesiredRecord              // the part that outlives the process
	destination         *Destination // destination of the stream's changes; nil if there is none yet
	job                 *importJob   // job of the requested import; nil if there is none
	filled              int          // number of imports that filled a destination
}

// needsImport reports whether HQ has configured a destination that has no snapshot yet. In that
// case, HQ is about to request an import.
func (d desired) needsImport() bool {
	return d.destination != nil && slices.Contains(d.NeedsImport, d.destination.Identity)
}

// beside reports whether there is a requested import that runs while the stream is followed.
func (d desired) beside() bool { return d.Import != nil && d.Import.Beside }

// follows reports whether the stream is to be followed.
func (d desired) follows() bool { return d.obstacle() == "" }

// obstacle returns the reason why the stream is not to be followed, or "" if it is to be followed.
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
	changed chan struct{} // closed when desired changes next; nil if no caller waits
}

// now returns the current desired state, and a channel that is closed when the desired state
// changes.
func (s *desiredState) now() (desired, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.desired, s.changed
}

// change passes a copy of the desired state to the callback do for editing. The copy becomes
// current after it has been written to disk. If the callback or the write to disk fails, the
// desired state does not change.
func (s *desiredState) change(do func(*desired) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.desired
	next.NeedsImport, next.Outcomes = slices.Clone(next.NeedsImport), slices.Clone(next.Outcomes)
	next.Healed = slices.Clone(next.Healed)
	if err := do(&next); err != nil {
		return err
	}
	if !reflect.DeepEqual(next.DesiredRecord, s.desired.DesiredRecord) {
		if err := s.dir.SetDesired(next.DesiredRecord); err != nil {
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

// await waits until the callback returns true for the current desired state, or until ctx ends.
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

// awaitOther waits until the stream is no longer to be followed into d, or until ctx ends.
func (s *desiredState) awaitOther(ctx context.Context, d *Destination) {
	s.await(ctx, func(now desired) bool { return now.destination != d || !now.follows() })
}

// restore continues the requests that an earlier process received. The parameter d is the
// configured destination, or nil if there is none. A requested import fails if its destination is
// not d.
func (r *Reconciler) restore(d *Destination) error {
	recorded, err := r.State.Desired()
	if err != nil {
		return err
	}
	r.desired.desired.DesiredRecord = recorded
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
		if filled, err = r.State.Filled(d.DestinationKey); err != nil {
			return err
		}
	}
	return r.desired.change(func(now *desired) error {
		now.destination, now.job = d, job
		if filled { // the operator's import has filled d
			now.fill(d)
		}
		if job != nil && (d == nil || d.Identity != recorded.Import.Destination) {
			now.finish(job, errOtherDestination)
			job.finish(errOtherDestination)
		}
		return nil
	})
}

// fill records that the given destination no longer needs an import.
func (d *desired) fill(at *Destination) {
	d.NeedsImport = slices.DeleteFunc(d.NeedsImport, func(identity string) bool { return identity == at.Identity })
	if len(d.NeedsImport) == 0 {
		d.NeedsImport = nil
	}
}

// finish records that the job has ended. If HQ requested the import, finish adds the outcome to the
// list of outcomes that HQ has not received yet.
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

// SetDestination calls the callback save, which saves the configuration of d, and then makes d the
// desired destination. If d has no snapshot, the stream is not followed until an import has filled
// d. SetDestination cancels an import into another destination. If the callback fails, the desired
// destination does not change.
func (r *Reconciler) SetDestination(d *Destination, save func() error) error {
	snapshots, err := r.State.Snapshots(d.DestinationKey)
	if err != nil {
		return err
	}
	filled, err := r.State.Filled(d.DestinationKey)
	if err != nil {
		return err
	}
	// Record the need for an import before save: after a crash, a saved configuration alone would
	// start the pipeline.
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

// Destination returns the desired destination, or nil if there is none yet.
func (r *Reconciler) Destination() *Destination {
	desired, _ := r.desired.now()
	return desired.destination
}

// Pause(true) stops applying changes, and Pause(false) resumes applying them. The pause survives
// restarts. If the server is already paused, Pause(true) has no effect.
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

// Paused returns the start of the pause, or zero if the server is not paused.
func (r *Reconciler) Paused() time.Time {
	desired, _ := r.desired.now()
	return desired.Paused
}

// AwaitOutcome waits until there is an import outcome that HQ has not received yet, and returns the
// oldest one. It returns false if ctx ends first.
func (r *Reconciler) AwaitOutcome(ctx context.Context) (o state.ImportOutcome, ok bool) {
	r.desired.await(ctx, func(now desired) bool {
		if ok = len(now.Outcomes) > 0; ok {
			o = now.Outcomes[0]
		}
		return ok
	})
	return o, ok
}

// OutcomeReceived records that HQ has received the outcome of the import with the given id.
func (r *Reconciler) OutcomeReceived(id string) error {
	return r.desired.change(func(d *desired) error {
		d.Outcomes = slices.DeleteFunc(d.Outcomes, func(o state.ImportOutcome) bool { return o.ID == id })
		if len(d.Outcomes) == 0 {
			d.Outcomes = nil
		}
		return nil
	})
}
