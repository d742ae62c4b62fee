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

// maxName is the maximum length, in bytes, that S3 allows for an object's name.
const maxName = 1024

// objectSink writes one object per event. Events are uploaded in any order. If an event is
// delivered again, it replaces its own object.
type objectSink struct {
	*bucketStore
	*serialCalls
	env    sink.Env
	loader encode.Loader
}

var (
	_ sink.Sink  = (*objectSink)(nil)
	_ sink.Pacer = (*objectSink)(nil)
)

func newObjectSink(c config, env sink.Env, s *bucketStore) *objectSink {
	o := &objectSink{bucketStore: s, serialCalls: &serialCalls{}, env: env}
	o.loader = encode.Loader{Apply: o.Apply, Limits: c.limits}
	return o
}

// Limits returns the batch limits that the URL sets.
func (o *objectSink) Limits() sink.Limits { return o.limits }

// Apply uploads an object for each of the batch's events.
func (o *objectSink) Apply(ctx context.Context, b *change.Batch) error {
	if len(b.Events) == 0 {
		return nil
	}
	ctx, done, err := o.enter(ctx)
	if err != nil {
		return fmt.Errorf("upload %d changes: %w", len(b.Events), err)
	}
	defer done()
	if err = o.prepareCall(ctx); err == nil {
		err = o.apply(ctx, b.Events)
	}
	if err != nil {
		err = fmt.Errorf("upload %d changes: %w", len(b.Events), err)
	}
	return o.finishCall(err)
}

func (o *objectSink) apply(ctx context.Context, events []*cdc.Event) error {
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

func (o *objectSink) upload(ctx context.Context, name string, e *cdc.Event) error {
	text, replaced := encode.AppendEvent(make([]byte, 0, len(e.Payload)+1), e)
	if replaced {
		o.env.Adjusted(e.Table, "", "invalid-utf8")
	}
	if err := o.put(ctx, name, "application/json", append(text, '\n')); err != nil {
		return fmt.Errorf("put an event of table %q: %w", e.Table, err)
	}
	return nil
}

// names returns two slices of the same length: the names of the objects, and the events to upload
// as these objects. If several events have the same name, names keeps only the last of these
// events, as if the events were uploaded one at a time.
func (o *objectSink) names(events []*cdc.Event) ([]string, []*cdc.Event, error) {
	names := make([]string, 0, len(events))
	kept := make([]*cdc.Event, 0, len(events))
	index := make(map[string]int, len(events))
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
		if i, known := index[name]; known {
			kept[i] = e
			continue
		}
		index[name] = len(names)
		names, kept = append(names, name), append(kept, e)
	}
	return names, kept, nil
}

// below returns the full name of an object, which starts with the location's prefix.
func (l location) below(name string) string {
	if l.prefix == "" {
		return name
	}
	return l.prefix + "/" + name
}

// checkWritable checks that the store answers, has the bucket, and accepts the keys. It creates no
// object: it tries to complete a multipart upload that does not exist. If eds may write, the store
// reports that there is no such upload.
func (s *bucketStore) checkWritable(ctx context.Context) error {
	part := types.CompletedPart{PartNumber: aws.Int32(1), ETag: aws.String(`"d41d8cd98f00b204e9800998ecf8427e"`)}
	err := s.completeUpload(ctx, s.below(".eds-probe-"+rand.Text()), "none", 0, part)
	if answer := new(responseError); errors.As(err, &answer) && unknownUpload[answer.code] {
		return nil
	}
	if err != nil {
		return fmt.Errorf("test whether objects can be written to the bucket: %w", err)
	}
	return nil
}

// unknownUpload holds the error codes of stores that do not find an upload or reject its id.
var unknownUpload = map[string]bool{"NoSuchUpload": true, "InvalidArgument": true, "InvalidRequest": true, "InvalidPart": true}

// Probe checks that the store answers, accepts the keys, and lets eds write. It begins a multipart
// upload and aborts it.
func (s *bucketStore) Probe(ctx context.Context) error {
	name := s.below(".eds-probe-" + rand.Text())
	id, err := s.beginUpload(ctx, name, "application/json")
	if err == nil {
		err = s.abortUpload(ctx, name, id)
		if class := fault.Of(err); class == fault.Fatal || class == fault.Refused {
			return nil // eds has the permission to write, but not to abort
		}
	}
	if err != nil {
		err = fmt.Errorf("test whether objects can be written to the bucket: %w", err)
	}
	return s.access.Outcome(err)
}

// BeginLoad begins the load of one table. The load uploads each row as an object.
func (o *objectSink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return o.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close interrupts a running upload and waits for the call to end.
func (o *objectSink) Close(context.Context) error {
	o.shutDown()
	o.close()
	return nil
}

// serialCalls makes calls that upload wait for each other, so that only one of them runs at a time.
// Closing the sink interrupts the running call.
type serialCalls struct {
	mu sync.Mutex // held during a call

	state  sync.Mutex
	closed bool
	abort  context.CancelFunc // cancels the running call; nil if there is none
}

// enter waits until no other call runs. It returns a context that shutDown cancels, and a function
// that ends the call.
func (u *serialCalls) enter(ctx context.Context) (context.Context, func(), error) {
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

// shutDown interrupts a running call and waits until it has ended. Later calls fail.
func (u *serialCalls) shutDown() {
	u.state.Lock()
	u.closed = true
	if u.abort != nil {
		u.abort()
	}
	u.state.Unlock()
	u.mu.Lock() // wait until the call has ended
	defer u.mu.Unlock()
}
