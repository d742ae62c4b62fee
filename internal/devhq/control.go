package devhq

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SetRate sets how many changes a second the shop makes from now on.
func (h *HQ) SetRate(rate float64) { h.worker.set(func() { h.worker.rate = rate }) }

// Pause stops the shop. When it returns nil, nothing is under way and every
// change so far is in the stream.
func (h *HQ) Pause(ctx context.Context) error { return h.worker.pause(ctx) }

// Resume lets the shop go on after Pause.
func (h *HQ) Resume() { h.worker.set(func() { h.worker.paused = false }) }

// Work makes the shop do at least the given number of changes now, whatever its
// rate, paused or not, and returns how many it did. They are in the stream then.
// What the shop does follows from its seed and from what it has done before, so
// the same calls make the same changes.
func (h *HQ) Work(ctx context.Context, changes int) (made int, err error) {
	err = h.worker.exclusively(ctx, func() error {
		made, err = h.worker.workNow(ctx, changes)
		return err
	})
	if err != nil {
		return made, fmt.Errorf("work in the shop: %w", err)
	}
	return made, nil
}

// Evolve changes the shop's schema, paused or not, and says how. It returns when
// the first changes under the new schema are in the stream, and
// shop.ErrEvolved where nothing is left to change.
func (h *HQ) Evolve(ctx context.Context) (string, error) { return h.worker.evolve(ctx) }

// Publish puts a message of any content into the stream, behind everything that
// was published before, and returns when it is stored. The subject is one of
// dbchange.>. A message without a Nats-Msg-Id is never taken for a duplicate.
func (h *HQ) Publish(ctx context.Context, subject string, header nats.Header, data []byte) error {
	_, err := h.publisher.store(ctx, []*nats.Msg{{Subject: subject, Header: header, Data: data}})
	return err
}

// Notify sends a control message to a session. Data is encoded as JSON; nil is none.
func (h *HQ) Notify(ctx context.Context, sessionID, action string, data any) error {
	text, err := controlMessage(action, data)
	if err != nil {
		return err
	}
	if err := h.admin.Publish("eds.notify."+sessionID+"."+action, text); err != nil {
		return fmt.Errorf("send the control message %s: %w", action, err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout) // a bound that the client library insists on
	defer cancel()
	if err := h.admin.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("send the control message %s: %w", action, err)
	}
	return nil
}

// Conn returns HQ's own connection to NATS, which may do everything. It belongs
// to HQ; it reconnects by itself.
func (h *HQ) Conn() *nats.Conn { return h.admin }

// StopNATS stops the NATS server alone. The shop stands still until it is back.
func (h *HQ) StopNATS() { h.broker.stop() }

// StartNATS starts it again, at the same port and with the same store.
func (h *HQ) StartNATS() error { return h.broker.start() }

// StreamState returns what the stream holds.
func (h *HQ) StreamState(ctx context.Context) (jetstream.StreamState, error) {
	stream, err := h.stream(ctx)
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return stream.CachedInfo().State, nil
}

// Consumers returns the consumers of the stream, by name.
func (h *HQ) Consumers(ctx context.Context) (map[string]*jetstream.ConsumerInfo, error) {
	stream, err := h.stream(ctx)
	if err != nil {
		return nil, err
	}
	consumers := make(map[string]*jetstream.ConsumerInfo)
	list := stream.ListConsumers(ctx)
	for c := range list.Info() {
		consumers[c.Name] = c
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers: %w", err)
	}
	return consumers, nil
}

// DeleteConsumer deletes a consumer, as its inactivity threshold would.
func (h *HQ) DeleteConsumer(ctx context.Context, name string) error {
	stream, err := h.stream(ctx)
	if err != nil {
		return err
	}
	if err := stream.DeleteConsumer(ctx, name); err != nil {
		return fmt.Errorf("delete the consumer %s: %w", name, err)
	}
	return nil
}

// PurgeStream removes every message below the given sequence, as the stream's
// limits would; math.MaxUint64 removes all.
func (h *HQ) PurgeStream(ctx context.Context, below uint64) error {
	stream, err := h.stream(ctx)
	if err != nil {
		return err
	}
	var options []jetstream.StreamPurgeOpt
	if below != math.MaxUint64 {
		options = append(options, jetstream.WithPurgeSequence(below))
	}
	if err := stream.Purge(ctx, options...); err != nil {
		return fmt.Errorf("purge the stream: %w", err)
	}
	return nil
}

// RecreateStream deletes the stream and makes it anew: empty, without consumers,
// and counting from 1.
func (h *HQ) RecreateStream(ctx context.Context) error {
	return h.worker.exclusively(ctx, func() error {
		js, err := openJetStream(h.admin)
		if err != nil {
			return err
		}
		if err := js.DeleteStream(ctx, streamName); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete the stream: %w", err)
		}
		return ensureStream(ctx, h.admin, h.options, h.shop.History())
	})
}

func (h *HQ) stream(ctx context.Context) (jetstream.Stream, error) {
	js, err := openJetStream(h.admin)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, streamName)
	if err != nil {
		return nil, fmt.Errorf("look up the stream %s: %w", streamName, err)
	}
	return stream, nil
}
