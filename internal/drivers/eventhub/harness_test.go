package eventhub

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

// namespace is the server that all tests share. Each test creates its own hubs in it.
var namespace *peer.Namespace

func TestMain(m *testing.M) {
	var err error
	if namespace, err = peer.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := namespace.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the event hubs peer:", err)
		code = 1
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var hubs atomic.Int64

// newHub creates a hub for one test.
func newHub(t testing.TB, s peer.Settings) *peer.Hub {
	t.Helper()
	return namespace.Make(t, fmt.Sprintf("hub-%d", hubs.Add(1)), s)
}

// urlAt returns the destination URL of a hub, with address as its host.
func urlAt(address, hub, query string) string {
	return "eventhub://" + address + "/;SharedAccessKeyName=" + peer.KeyName + ";SharedAccessKey=" + peer.Key + ";EntityPath=" + hub +
		";UseDevelopmentEmulator=true" + query
}

func urlTo(hub *peer.Hub, query string) string { return urlAt(namespace.Addr, hub.Name, query) }

var env = sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "*"}

func tryOpen(t testing.TB, raw string, env sink.Env) (*Sink, error) {
	t.Helper()
	s, err := sinktest.Open(t, Driver(), raw, env)
	if err != nil {
		return nil, err
	}
	return s.(*Sink), nil
}

func mustOpen(t testing.TB, raw string) *Sink {
	t.Helper()
	s, err := tryOpen(t, raw, env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rows returns the ids of the changes in a hub, by partition key. The changes of a key are in
// stored order.
func rows(t testing.TB, hub *peer.Hub) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	partitions := make(map[string]int)
	for _, e := range hub.Stored(t) {
		if p, seen := partitions[e.Key]; seen && p != e.Partition {
			t.Errorf("partition key %s is in two partitions", e.Key)
		}
		partitions[e.Key] = e.Partition
		all[e.Key] = append(all[e.Key], e.ID[strings.LastIndexByte(e.ID, '.')+1:])
	}
	return all
}

// wantOnce checks that a hub stores each of the numbered events from first to last exactly once.
// The events of a row must be in order.
func wantOnce(t testing.TB, hub *peer.Hub, first, last int) {
	t.Helper()
	wantRows(t, rows(t, hub), first, last)
}

func wantRows(t testing.TB, got map[string][]string, first, last int) {
	t.Helper()
	want := make(map[string][]string)
	for n := first; n <= last; n++ {
		row := fmt.Sprintf("order.c.NONE.k%d", n%3)
		want[row] = append(want[row], fmt.Sprintf("ev%d", n))
	}
	for row := range want {
		if strings.Join(got[row], " ") != strings.Join(want[row], " ") {
			t.Errorf("row %s has %v, want %v", row, got[row], want[row])
		}
	}
	if len(got) != len(want) {
		t.Errorf("there are %d rows, want %d", len(got), len(want))
	}
}

// wantInOrder is like wantOnce, but permits duplicates.
func wantInOrder(t testing.TB, hub *peer.Hub, first, last int) {
	t.Helper()
	got := rows(t, hub)
	for row, ids := range got {
		seen := make(map[string]bool)
		var firsts []string
		for _, id := range ids {
			if !seen[id] {
				firsts = append(firsts, id)
			}
			seen[id] = true
		}
		got[row] = firsts
	}
	wantRows(t, got, first, last)
}

func parsed(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
