package supervisor

import (
	"context"
	"time"
)

// silentTicks is a number of ticks. A worker that sends no message for this many ticks counts as
// hung. A ticker queues at most one tick, so a time in which the parent itself did not run is not
// counted.
const silentTicks = 8

// monitor watches one worker until its process ends.
type monitor struct {
	*supervisor
	child *child
	end   ending

	silent  int         // ticks since the last message
	readyAt time.Time   // when the worker became ready
	passed  *time.Timer // the next deadline of the probation
	force   *time.Timer // kills a hung or late worker that does not end in time
}

// follow handles the worker's messages and deadlines. It returns after the worker has ended and all
// of its messages have been read.
func (w *monitor) follow(ctx context.Context) {
	ticks := time.NewTicker(w.Limits.Hang / silentTicks)
	defer ticks.Stop()
	w.passed, w.force = stoppedTimer(), stoppedTimer()
	defer w.passed.Stop()
	defer w.force.Stop()
	if w.probation != nil {
		w.passed.Reset(w.Limits.Ready)
	}
	stop, kill := ctx.Done(), w.Kill
	for {
		select {
		case r := <-w.child.reports:
			w.handle(r)
		case x := <-w.child.ended:
			w.close(x)
			return
		case <-stop:
			stop, w.end.stopped = nil, true
			w.passed.Stop() // the operator stops the worker, so the probation has no deadline
			w.Logger.Info("the server shuts down once it has applied all received changes; a second signal ends it at once")
			w.child.stop()
		case <-kill:
			kill, w.end.killed = nil, true
			w.child.kill()
		case <-ticks.C:
			w.tick()
		case <-w.passed.C:
			w.checkProbation()
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

// handle handles a message from the worker.
func (w *monitor) handle(r workerMessage) {
	w.silent = 0
	switch r.Type {
	case typeReady:
		w.ready()
	case typeSession:
		w.end.session = r.Session
	case typeUpgrade:
		w.Logger.Info("the worker requests an upgrade", "version", r.Version)
		w.end.upgrade = &r
	case typeExiting:
		w.Logger.Info("the worker ends", "code", r.Code) // the worker has logged the reason
		w.end.exiting = &r
		w.child.stop() // closes the worker's input
	}
}

func (w *monitor) ready() {
	if w.end.ready {
		return
	}
	w.end.ready, w.readyAt = true, time.Now()
	w.Logger.Info("the worker is ready", "pid", w.end.pid)
	w.reported()
	if w.probation != nil && !w.end.stopped {
		w.passed.Reset(w.Limits.Stable)
	}
}

// tick counts the ticks without a message, and ends a worker that hangs.
func (w *monitor) tick() {
	w.silent++
	if w.silent > silentTicks && !w.end.hung && !w.end.late {
		w.Logger.Error("the worker hangs; ending it", "pid", w.end.pid, "silent", w.Limits.Hang)
		w.end.hung = true
		w.dumpAndEnd()
	}
}

// checkProbation is called when the worker's time to become ready is over, and again when a ready
// worker has run for long enough.
func (w *monitor) checkProbation() {
	switch {
	case w.end.hung || w.end.late:
	case w.end.ready:
		w.confirm()
	default:
		w.Logger.Error("the upgraded worker is not ready in time; ending it", "pid", w.end.pid, "limit", w.Limits.Ready)
		w.end.late = true
		w.dumpAndEnd()
	}
}

// dumpAndEnd makes the worker write its goroutines to standard error and then end. If the worker
// has not ended after Limits.Quit, it is killed.
func (w *monitor) dumpAndEnd() {
	w.child.quit()
	w.force.Reset(w.Limits.Quit)
}

// close records the exit of the worker in w.end.
func (w *monitor) close(x exit) {
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
