package server

import (
	"context"
	"strings"
	"sync"
	"time"
)

// wish is what the server is to do, as whoever started it, and HQ since, have
// said.
type wish struct {
	place  *place       // to follow the stream into; nil: none yet
	paused time.Time    // since when it is not to be; zero: it is
	order  *importOrder // to be carried out first; nil: none
	// unfilled: HQ has moved the server to a place that holds no snapshot, and
	// will ask for an import.
	unfilled bool
}

// follows reports whether the stream is to be followed.
func (w wish) follows() bool { return w.obstacle() == "" }

// obstacle says why the stream is not to be followed; "" where it is.
func (w wish) obstacle() string {
	switch {
	case w.order != nil:
		return "an import is under way"
	case w.place == nil:
		return "there is no destination yet; configure one at HQ"
	case !w.paused.IsZero():
		return "HQ has paused this server"
	case w.unfilled:
		return "the destination was configured anew, and waits for an import"
	}
	return ""
}

// wishes hold the present wish. Its methods may be called concurrently.
type wishes struct {
	mu      sync.Mutex
	wish    wish
	changed chan struct{} // closed at the next change; nil while nobody waits
}

// now returns the present wish, and a channel that is closed when it changes.
func (w *wishes) now() (wish, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.wish, w.changed
}

func (w *wishes) change(do func(*wish)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do(&w.wish)
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// moveTo has the stream followed into p; where unfilled, after an import.
func (w *wishes) moveTo(p *place, unfilled bool) {
	w.change(func(w *wish) { w.place, w.unfilled = p, unfilled })
}

// done ends the import that was asked for. One that succeeded fills the place.
func (w *wishes) done(filled bool) {
	w.change(func(w *wish) {
		w.order = nil
		w.unfilled = w.unfilled && !filled
	})
}

// pause begins or ends a pause; one that lasts already goes on.
func (w *wishes) pause(on bool) {
	w.change(func(w *wish) {
		switch {
		case !on:
			w.paused = time.Time{}
		case w.paused.IsZero():
			w.paused = time.Now().UTC()
		}
	})
}

// ask asks for an import, and reports false where one is under way.
func (w *wishes) ask(order *importOrder) (ok bool) {
	w.change(func(w *wish) {
		if ok = w.order == nil; ok {
			w.order = order
		}
	})
	return ok
}

// awaitOther waits until something else is wished for than to follow the stream
// into p, or ctx ends.
func (w *wishes) awaitOther(ctx context.Context, p *place) {
	for {
		wanted, changed := w.now()
		if wanted.place != p || !wanted.follows() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// awaitImport waits until no import is to be carried out, or ctx ends.
func (w *wishes) awaitImport(ctx context.Context) {
	for {
		wanted, changed := w.now()
		if wanted.order == nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// joined is the name of a set of filters at the destination.
func joined(filters []string) string { return strings.Join(filters, " ") }
