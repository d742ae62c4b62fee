package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/state"
)

// TestSession_IsRenewedInTime: the next session handles commands while this one still
// applies changes, and follows the stream after it.
func TestSession_IsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Options.RenewInterval = time.Hour
		b.reconciler.run = func(due, hard context.Context) (gap, err error) {
			<-due.Done()
			time.Sleep(5 * time.Second) // applies changes
			return nil, context.Cause(due)
		}
		b.begin()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		events := b.take()
		if diff := cmp.Diff([]string{"end s1 to renew it", "start s2"}, events); diff != "" {
			t.Error(diff)
		}
		b.conn = <-b.nats.ready
		b.send("pause", "")
		b.expect(t, "pause true", "s2: respond pause {true  s2 pause }")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		b.expect(t, "s1: close the channel", "s1: disconnect", "follow eds-dev [dbchange.*.*.*.*.PUBLIC.>]")
		b.end(nil)
		b.expect(t, "s2: close the channel", "s2: disconnect", "end s2, errored: false")
	})
}

func TestSession_IsFreedAfterRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Options.RenewInterval = time.Hour
		b.begin()
		first := weak.Make(b.conn)
		b.conn = nil
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		for len(b.nats.ready) > 1 {
			<-b.nats.ready
		}
		runtime.GC()
		if first.Value() != nil {
			t.Error("after several renewals, the connection of the first session is still in memory")
		}
		b.conn = <-b.nats.ready
		b.end(nil)
	})
}

// TestSession_RenewalAbandonsASlowDrain: the next session receives the changes again.
func TestSession_RenewalAbandonsASlowDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Options.RenewInterval = time.Hour
		runs := 0
		b.reconciler.run = func(due, hard context.Context) (gap, err error) {
			<-due.Done()
			if runs++; runs == 1 {
				began := time.Now()
				<-hard.Done()
				if waited := time.Since(began); waited != time.Hour+closeTimeout {
					t.Errorf("abandoned after %v", waited)
				}
				return nil, pipeline.ErrAbandoned
			}
			return nil, context.Cause(due)
		}
		b.begin()
		time.Sleep(3*time.Hour - time.Minute)
		synctest.Wait()
		if !b.log.has("the next session receives the changes again") || runs < 1 {
			t.Errorf("%d runs; the log: %q", runs, b.log.all)
		}
		b.end(nil)
	})
}

// TestSession_BoundsTheDrainAfterItsEnd: a restart of the next session also abandons the
// changes that this one still applies.
func TestSession_BoundsTheDrainAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Options.RenewInterval = time.Hour
		runs := 0
		b.reconciler.run = func(due, hard context.Context) (gap, err error) {
			<-due.Done()
			if runs++; runs == 1 {
				<-hard.Done()
				return nil, pipeline.ErrAbandoned
			}
			return nil, context.Cause(due)
		}
		b.begin()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		b.conn = <-b.nats.ready
		b.take()
		b.send("restart", "")
		b.expect(t, "s2: acknowledge restart")
		time.Sleep(closeTimeout + time.Second)
		synctest.Wait()
		events := b.take()
		want := []string{
			"s1: close the channel", "s1: disconnect", "follow eds-dev [dbchange.*.*.*.*.PUBLIC.>]",
			"s2: respond restart {true  s2 restart }", "s2: close the channel", "s2: disconnect", "end s2, errored: false",
			"start s3", "follow eds-dev [dbchange.*.*.*.*.PUBLIC.>]",
		}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Error(diff)
		}
		b.end(nil)
	})
}

// TestSession_StartedToRenewAnotherEndsIfTheAgentStops: the other one still applies its
// changes.
func TestSession_StartedToRenewAnotherEndsIfTheAgentStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Options.RenewInterval = time.Hour
		b.reconciler.run = func(due, hard context.Context) (gap, err error) {
			<-due.Done()
			if retry.Sleep(hard, time.Minute) != nil {
				t.Error("the changes are abandoned")
			}
			return nil, context.Cause(due)
		}
		b.begin()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		b.take()
		b.end(nil)
		b.expect(t, "s1: close the channel", "s1: disconnect", "s2: close the channel", "s2: disconnect", "end s2, errored: false")
	})
}

func TestSession_EndsIfItsRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Options.RenewInterval = time.Hour
		b.hq.startErr = func(session int) error {
			if session == 2 {
				return errors.New("no route to host")
			}
			return nil
		}
		b.begin()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		events := b.take()
		if !slices.Contains(events, "end s1, errored: true") || !slices.Contains(events, "start s3") {
			t.Errorf("events: %q", events)
		}
		b.end(nil)
	})
}

func TestSession_EndsIfItsControlChannelFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.begin()
		b.conn.failed <- &hq.MalformedCommandError{Err: errors.New("not JSON")}
		b.conn.failed <- errors.New("subscription is gone")
		time.Sleep(time.Second)
		synctest.Wait()
		if events := b.take(); !slices.Contains(events, "end s1, errored: true") || !slices.Contains(events, "start s2") {
			t.Errorf("events: %q", events)
		}
		b.end(nil)
	})
}

func TestSession_SendsOutcomesOfImports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.begin()
		b.conn.lost.Store(true)
		b.reconciler.outcomes <- state.ImportOutcome{ID: "i1", Note: "2 rows could not be loaded"}
		synctest.Wait()
		b.expect(t)
		if reasons := b.config.Health.Report().Reasons; len(reasons) != 1 || reasons[0].Condition != "nats" {
			t.Errorf("health: %+v", reasons)
		}
		b.conn.lost.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		b.reconciler.outcomes <- state.ImportOutcome{ID: "i2", Error: "no such table"}
		synctest.Wait()
		b.expect(t, "s1: respond import {true 2 rows could not be loaded s1  }", "received the outcome of i1",
			"s1: respond import {false no such table s1  }", "received the outcome of i2")
		b.end(nil)
	})
}

func TestSession_LogsMessagesThatItCannotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.begin()
		b.conn.broken.Store(true)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if !b.log.has("a message to hq could not be sent") {
			t.Errorf("the log: %q", b.log.all)
		}
		b.end(nil)
	})
}

func TestCompanies_AreThoseOfTheCredentialLimitedByTheOperator(t *testing.T) {
	credential := func(companies ...string) hq.Credential {
		var subjects []string
		for _, id := range companies {
			subjects = append(subjects, "dbchange.*.*."+id+".*.PUBLIC.>")
		}
		return newCredential(t, subjects...)
	}
	for name, c := range map[string]struct {
		credential hq.Credential
		wanted     []string
		want       []string
		err        string
	}{
		"all":         {credential("a", "b"), nil, []string{"a", "b"}, ""},
		"asterisk":    {credential("a", "b"), []string{"*"}, []string{"a", "b"}, ""},
		"limited":     {credential("a", "b"), []string{"b"}, []string{"b"}, ""},
		"of everyone": {hq.Anonymous(), []string{"c"}, []string{"c"}, ""},
		"denied":      {credential("a"), []string{"b"}, nil, `this server may not read company "b"; it may read a`},
		"none":        {credential(), nil, nil, "names no company"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{Config: Config{Options: config.ServerSettings{}}}
			a.Options.CompanyIDs = c.wanted
			got, err := a.companies(c.credential)
			if c.err == "" && err != nil || c.err != "" && !strings.Contains(fmt.Sprint(err), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// newCredential returns the credential of a server that may subscribe to subjects.
func newCredential(t *testing.T, subjects ...string) hq.Credential {
	t.Helper()
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.NewUserClaims(public)
	claims.Name = "server"
	claims.Sub.Allow.Add(subjects...)
	token, err := claims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := hq.ParseCredential(base64.StdEncoding.EncodeToString(file))
	if err != nil {
		t.Fatal(err)
	}
	return credential
}
