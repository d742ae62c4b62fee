package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// maxName is the longest name of an object that S3 takes, in bytes.
const maxName = 1024

// objects is the sink that writes one object an event. That an event comes again
// replaces its object, so their order is of no matter.
type objects struct {
	*store
	*uploads
	env    sink.Env
	loader encode.Loader
}

var (
	_ sink.Sink  = (*objects)(nil)
	_ sink.Pacer = (*objects)(nil)
)

func newObjects(c config, env sink.Env, s *store) *objects {
	o := &objects{store: s, uploads: &uploads{}, env: env}
	o.loader = encode.Loader{Apply: o.Apply, Limits: c.limits}
	return o
}

// Limits are those that the URL asks for.
func (o *objects) Limits() sink.Limits { return o.limits }

// Apply uploads an object for each of the batch's events.
func (o *objects) Apply(ctx context.Context, b *change.Batch) error {
	if len(b.Events) == 0 {
		return nil
	}
	ctx, done, err := o.enter(ctx)
	if err != nil {
		return fmt.Errorf("upload %d changes: %w", len(b.Events), err)
	}
	defer done()
	if err = o.ready(ctx); err == nil {
		err = o.apply(ctx, b.Events)
	}
	if err != nil {
		err = fmt.Errorf("upload %d changes: %w", len(b.Events), err)
	}
	return o.settle(err)
}

func (o *objects) apply(ctx context.Context, events []*cdc.Event) error {
	names, events, err := o.names(events)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(o.tasks, len(events)) {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(events)); i = next.Add(1) - 1 {
				if err := o.upload(ctx, names[i], events[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (o *objects) upload(ctx context.Context, name string, e *cdc.Event) error {
	text, replaced := encode.AppendEvent(make([]byte, 0, len(e.Payload)+1), e)
	if replaced {
		o.env.Adjusted(e.Table, "", "invalid-utf8")
	}
	if err := o.put(ctx, name, "application/json", append(text, '\n')); err != nil {
		return fmt.Errorf("put an event of table %q: %w", e.Table, err)
	}
	return nil
}

// names returns the objects of the events: of those that have one name the last
// event, as if they had been uploaded one after another.
func (o *objects) names(events []*cdc.Event) ([]string, []*cdc.Event, error) {
	names := make([]string, 0, len(events))
	kept := make([]*cdc.Event, 0, len(events))
	places := make(map[string]int, len(events))
	for _, e := range events {
		name, err := o.path.NameOf(e)
		if err == nil {
			name = o.below(name)
			if len(name) > maxName {
				err = fmt.Errorf("with the prefix it has %d bytes, more than %d", len(name), maxName)
			}
		}
		if err != nil {
			return nil, nil, fault.Mark(fault.Poison, fmt.Errorf("name an event of table %q: %w", e.Table, err))
		}
		if i, known := places[name]; known {
			kept[i] = e
			continue
		}
		places[name] = len(names)
		names, kept = append(names, name), append(kept, e)
	}
	return names, kept, nil
}

// below returns the name of an object below the prefix.
func (l location) below(name string) string {
	if l.prefix == "" {
		return name
	}
	return l.prefix + "/" + name
}

// reach makes sure that the store answers, has the bucket, and takes the keys: it asks
// to complete an upload that was never begun. A store that would let eds write says that
// there is no such upload.
func (s *store) reach(ctx context.Context) error {
	part := types.CompletedPart{PartNumber: aws.Int32(1), ETag: aws.String(`"d41d8cd98f00b204e9800998ecf8427e"`)}
	err := s.complete(ctx, s.below(".eds-probe-"+rand.Text()), "none", 0, part)
	if answer := new(answerError); errors.As(err, &answer) && noUpload[answer.code] {
		return nil
	}
	if err != nil {
		return fmt.Errorf("test whether objects can be written to the bucket: %w", err)
	}
	return nil
}

// noUpload are the codes of stores that find no upload of an id, or take it for none.
var noUpload = map[string]bool{"NoSuchUpload": true, "InvalidArgument": true, "InvalidRequest": true, "InvalidPart": true}

// Probe makes sure that the store answers, takes the keys, and would take
// objects: it begins an upload that it does not finish.
func (s *store) Probe(ctx context.Context) error {
	name := s.below(".eds-probe-" + rand.Text())
	id, err := s.begin(ctx, name, "application/json")
	if err == nil {
		err = s.abort(ctx, name, id)
		if class := fault.Of(err); class == fault.Fatal || class == fault.Refused {
			return nil // eds may write, though not forget what it began
		}
	}
	if err != nil {
		err = fmt.Errorf("test whether objects can be written to the bucket: %w", err)
	}
	return s.access.Judge(err)
}

// BeginLoad begins the load of one table.
func (o *objects) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return o.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close interrupts a batch that is being uploaded.
func (o *objects) Close(context.Context) error {
	o.leave()
	o.close()
	return nil
}

// uploads are the calls that upload, which closing interrupts. They are serial.
type uploads struct {
	mu sync.Mutex // held while a batch is uploaded

	state  sync.Mutex
	closed bool
	abort  context.CancelFunc // of the batch that is being uploaded; nil where none is
}

// enter waits for its turn and returns a context that leave cancels.
func (u *uploads) enter(ctx context.Context) (context.Context, func(), error) {
	u.mu.Lock()
	u.state.Lock()
	defer u.state.Unlock()
	if u.closed {
		u.mu.Unlock()
		return nil, nil, errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	u.abort = cancel
	return ctx, func() {
		u.state.Lock()
		u.abort = nil
		u.state.Unlock()
		cancel()
		u.mu.Unlock()
	}, nil
}

// leave interrupts a call, and waits until it has ended. Later ones are refused.
func (u *uploads) leave() {
	u.state.Lock()
	u.closed = true
	if u.abort != nil {
		u.abort()
	}
	u.state.Unlock()
	u.mu.Lock() // once the call has ended
	defer u.mu.Unlock()
}
