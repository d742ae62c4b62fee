package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// place is a destination that was asked for.
type place struct {
	driver sink.Driver
	target *url.URL
	masked string // the URL, fit for a log and for HQ
	after  bool   // update strategy
}

// newPlace reads a destination's URL, without talking to anybody.
func newPlace(raw config.Secret, strategy config.UpdateStrategy, lookup sink.Lookup) (*place, error) {
	driver, target, err := drivers.Parse(raw.Reveal(), lookup)
	if err != nil {
		return nil, err
	}
	return &place{driver: driver, target: target, masked: sink.MaskURL(raw.Reveal()), after: strategy == config.After}, nil
}

// env is what a sink at the place gets from the server.
func (s *Server) env(p *place) sink.Env {
	return sink.Env{
		Logger: s.Logger.With("destination", p.driver.Name), Stream: streamName, After: p.after, Lookup: s.Lookup, Tables: s.tables.Version,
		Adjusted: func(table, column, rule string) { s.adjust.WithLabelValues(table, column, rule).Inc() },
	}
}

// test opens the place, finds out whether it would work, and leaves it.
func (s *Server) test(ctx context.Context, p *place) error {
	destination, err := p.driver.Open(ctx, p.target, s.env(p))
	if err != nil {
		return fmt.Errorf("open %s: %w", p.driver.Title, err)
	}
	if prober, ok := destination.(sink.Prober); ok {
		err = prober.Probe(ctx)
	}
	parting, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	return errors.Join(err, destination.Close(parting))
}

// openDestination opens the place under the given consumer's name, waiting for
// it as long as its errors are transient. What is open already is used again.
func (s *Server) openDestination(ctx context.Context, p *place, filter string) (sink.Sink, error) {
	if s.open == p {
		return s.destination, nil
	}
	s.closeDestination()
	env := s.env(p)
	env.Consumer, env.Filter = s.consumer(), filter
	err := s.insist(ctx, "destination", func() (err error) {
		s.destination, err = p.driver.Open(ctx, p.target, env)
		return err
	})
	if err != nil {
		return nil, &DestinationError{fmt.Errorf("open the destination %s: %w", p.masked, err)}
	}
	s.open = p
	return s.destination, nil
}

// DestinationError says that the destination did not work when it was opened.
type DestinationError struct{ Err error }

func (e *DestinationError) Error() string { return e.Err.Error() }
func (e *DestinationError) Unwrap() error { return e.Err }

func (s *Server) closeDestination() {
	if s.open == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if err := s.destination.Close(ctx); err != nil {
		s.Logger.Warn("the destination did not close cleanly", "error", err)
	}
	s.open, s.destination = nil, nil
}

// errNotConfigured answers what needs a destination.
var errNotConfigured = fault.Mark(fault.Fatal, errors.New("this server has no destination yet; configure one first"))

// testTime bounds the test of a destination that HQ asks for, whose form waits
// for the answer.
const testTime = time.Minute
