package devhq

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SetRate sets the number of changes per second that the shop makes.
func (h *HQ) SetRate(rate float64) { h.workload.set(func() { h.workload.rate = rate }) }

// Pause stops the shop. If Pause returns nil, all changes made so far are in the stream.
func (h *HQ) Pause(ctx context.Context) error { return h.workload.pause(ctx) }

// Resume lets the shop continue after Pause.
func (h *HQ) Resume() { h.workload.set(func() { h.workload.paused = false }) }

// Work lets the shop make at least the given number of changes now, regardless of the rate and even
// if the shop is paused. Work waits until the changes are in the stream, and returns their number.
// The changes depend only on the seed and all earlier changes, so the same sequence of calls always
// produces the same changes.
func (h *HQ) Work(ctx context.Context, changes int) (made int, err error) {
	err = h.workload.exclusively(ctx, func() error {
		made, err = h.workload.workNow(ctx, changes)
		return err
	})
	if err != nil {
		return made, fmt.Errorf("work in the shop: %w", err)
	}
	return made, nil
}

// Evolve changes the schema of the shop, even if the shop is paused, and returns a description of
// the change. It returns when the first changes with the new schema are in the stream. If no
// evolution is left, the error is shop.ErrEvolved.
func (h *HQ) Evolve(ctx context.Context) (string, error) { return h.workload.evolve(ctx) }

// Publish adds a message with any content to the stream, and returns when the message is stored.
// The subject must begin with "dbchange.". A message without a Nats-Msg-Id header never counts as a
// duplicate.
func (h *HQ) Publish(ctx context.Context, subject string, header nats.Header, data []byte) error {
	_, err := h.publisher.store(ctx, []*nats.Msg{{Subject: subject, Header: header, Data: data}})
	return err
}

// Conn returns HQ's own connection to NATS. The connection has all permissions, and reconnects by
// itself. The caller must not close it.
func (h *HQ) Conn() *nats.Conn { return h.admin }

// StopNATS stops only the NATS server. The shop waits until the NATS server is running again.
func (h *HQ) StopNATS() { h.broker.stop() }

// StartNATS starts the NATS server again after StopNATS, with the same port and store.
func (h *HQ) StartNATS() error { return h.broker.start() }

// StreamState returns the current state of the stream.
func (h *HQ) StreamState(ctx context.Context) (jetstream.StreamState, error) {
	stream, err := h.stream(ctx)
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return stream.CachedInfo().State, nil
}

// Consumers returns the consumers of the stream, keyed by name.
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

// DeleteConsumer deletes a consumer. The effect is the same as when the inactivity threshold of the
// consumer expires.
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

// PurgeStream removes every message whose sequence is less than the given one. If the given
// sequence is math.MaxUint64, it removes all messages. The effect is the same as when the stream
// reaches one of its limits.
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

// RecreateStream deletes the stream and creates it again. The new stream is empty, has no
// consumers, and numbers its messages from 1.
func (h *HQ) RecreateStream(ctx context.Context) error {
	return h.workload.exclusively(ctx, func() error {
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
