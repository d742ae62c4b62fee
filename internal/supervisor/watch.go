package supervisor

import (
	"context"
	"time"
)

// silentTicks is how many ticks without a message make a hang. Silence is
// counted in ticks, of which a ticker never queues more than one, so that the
// time in which the parent itself did not run is not held against the worker.
const silentTicks = 8

// watch follows one worker to its end.
type watch struct {
	*supervisor
	child *child
	end   ending

	silent  int       // ticks since the last message
	readyAt time.Time // when it was ready
	proof   *time.Timer
	force   *time.Timer // ends what did not end when it was asked to say where it hangs
}

// follow returns once the worker has ended and all that it said has been read.
func (w *watch) follow(ctx context.Context) {
	ticks := time.NewTicker(w.Limits.Hang / silentTicks)
	defer ticks.Stop()
	w.proof, w.force = stoppedTimer(), stoppedTimer()
	defer w.proof.Stop()
	defer w.force.Stop()
	if w.trial != nil {
		w.proof.Reset(w.Limits.Ready)
	}
	stop, kill := ctx.Done(), w.Kill
	for {
		select {
		case r := <-w.child.reports:
			w.hear(r)
		case x := <-w.child.ended:
			w.close(x)
			return
		case <-stop:
			stop, w.end.stopped = nil, true
			w.proof.Stop() // it is not its own end
			w.Logger.Info("the server ends once it has applied what it holds; a second signal ends it at once")
			w.child.stop()
		case <-kill:
			kill, w.end.killed = nil, true
			w.child.kill()
		case <-ticks.C:
			w.tick()
		case <-w.proof.C:
			w.prove()
		case <-w.force.C:
			w.child.kill()
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// hear takes in a message.
func (w *watch) hear(r report) {
	w.silent = 0
	switch r.Type {
	case typeReady:
		w.ready()
	case typeSession:
		w.end.session = r.Session
	case typeUpgrade:
		w.Logger.Info("the worker asks for an upgrade", "version", r.Version)
		w.end.upgrade = &r
	case typeExiting:
		w.Logger.Info("the worker ends", "code", r.Code) // it has said why
		w.end.said = &r
		w.child.stop() // which ends the worker's reading of it
	}
}

func (w *watch) ready() {
	if w.end.ready {
		return
	}
	w.end.ready, w.readyAt = true, time.Now()
	w.Logger.Info("the worker is ready", "pid", w.end.pid)
	w.told()
	if w.trial != nil && !w.end.stopped {
		w.proof.Reset(w.Limits.Stable)
	}
}

// tick counts the worker's silence.
func (w *watch) tick() {
	w.silent++
	if w.silent > silentTicks && !w.end.hung && !w.end.late {
		w.Logger.Error("the worker hangs and is ended", "pid", w.end.pid, "silent", w.Limits.Hang)
		w.end.hung = true
		w.interrogate()
	}
}

// prove is called when an upgraded worker should be ready, and when it has
// lasted for long enough.
func (w *watch) prove() {
	switch {
	case w.end.hung || w.end.late:
	case w.end.ready:
		w.proved()
	default:
		w.Logger.Error("the upgraded worker is not ready in time and is ended", "pid", w.end.pid, "limit", w.Limits.Ready)
		w.end.late = true
		w.interrogate()
	}
}

// interrogate makes the worker write where it stands and end.
func (w *watch) interrogate() {
	w.child.quit()
	w.force.Reset(w.Limits.Quit)
}

// close takes in how the worker ended.
func (w *watch) close(x exit) {
	w.end.code, w.end.signal, w.end.starved = x.code, x.signal, x.starved
	w.end.stderr, w.end.message = x.stderr, x.message
	if x.code == codePanic && x.signal == "" {
		w.end.signal = runtimeSignal(x.message)
	}
	w.end.ran = time.Since(w.end.started)
	if w.end.ready {
		w.end.healthy = time.Since(w.readyAt)
	}
}
