package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

func windowsServices(h host) (serviceManager, error) { return scm{h}, nil }

// scm is the service control manager of Windows.
type scm struct{ host }

func (scm) check(s service) error {
	if strings.ContainsAny(s.DataDir, `"`) {
		return errors.New("--data-dir: a Windows path cannot contain quotes")
	}
	return nil
}

func (m scm) install(ctx context.Context, s service) (err error) {
	manager, err := mgr.Connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.Disconnect()) }()
	if err := m.protect(ctx, s); err != nil {
		return err
	}
	args := append([]string{"service", "run", "--name", s.Name, "--", "--data-dir", s.DataDir, "--silent"}, s.Args...)
	made, err := manager.CreateService(s.Name, s.Program, mgr.Config{
		StartType: mgr.StartAutomatic, DelayedAutoStart: true, ServiceStartName: s.User,
		DisplayName: "eds (" + s.Name + ")", Description: "Keeps a database equal to your Shopmonkey data",
	}, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	minute := mgr.RecoveryAction{Type: mgr.ServiceRestart, Delay: time.Minute}
	const day = 24 * 60 * 60
	err = errors.Join(
		made.SetRecoveryActions([]mgr.RecoveryAction{minute, minute, minute}, day),
		made.SetRecoveryActionsOnNonCrashFailures(true),
		eventlog.InstallAsEventCreate(s.Name, eventlog.Error|eventlog.Info),
	)
	if err != nil {
		return errors.Join(err, made.Delete())
	}
	return nil
}

// protect creates the data directory. Only the service's account and administrators can access
// the directory.
func (m scm) protect(ctx context.Context, s service) error {
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return err
	}
	account := s.User
	if account == localService {
		account = "*S-1-5-19" // LocalService; the account's name depends on the language of Windows
	}
	_, err := m.run(
		ctx, "icacls", s.DataDir, "/inheritance:r", "/grant:r", account+":(OI)(CI)M", "*S-1-5-18:(OI)(CI)F",
		"*S-1-5-32-544:(OI)(CI)F",
	)
	return err
}

// with opens the service that has the given name, passes the service to the callback, and then
// closes the service.
func (scm) with(name string, do func(*mgr.Service) error) error {
	manager, err := mgr.Connect()
	if err != nil {
		return err
	}
	s, err := manager.OpenService(name)
	if err != nil {
		if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
			err = errNotInstalled
		}
		return errors.Join(err, manager.Disconnect())
	}
	return errors.Join(do(s), s.Close(), manager.Disconnect())
}

func (m scm) uninstall(ctx context.Context, name string) error {
	if _, runs, err := m.status(ctx, name); err != nil || runs {
		if err = errors.Join(err, m.stop(ctx, name)); err != nil {
			return err
		}
	}
	return m.with(name, func(s *mgr.Service) error { return errors.Join(s.Delete(), eventlog.Remove(name)) })
}

func (m scm) start(_ context.Context, name string) error {
	return m.with(name, func(s *mgr.Service) error { return s.Start() })
}

// stop asks the service to stop, but does not wait for its end, because the service first
// applies the received changes.
func (m scm) stop(_ context.Context, name string) error {
	return m.with(name, func(s *mgr.Service) error {
		_, err := s.Control(svc.Stop)
		return err
	})
}

func (m scm) status(_ context.Context, name string) (state string, runs bool, err error) {
	err = m.with(name, func(s *mgr.Service) error {
		status, err := s.Query()
		runs = status.State == svc.Running
		names := map[svc.State]string{
			svc.Stopped: "stopped", svc.StartPending: "starting", svc.StopPending: "stopping", svc.Running: "running",
		}
		state = names[status.State]
		return err
	})
	return state, runs, err
}

// runAsService runs eds server as the service with the given name, until the server ends or
// Windows stops the service.
func runAsService(p Process, name string, args []string) error {
	if is, err := svc.IsWindowsService(); err != nil || !is {
		return usagef("eds service run is for the service manager; run eds server")
	}
	return svc.Run(name, &windowsService{p: p, name: name, args: args})
}

type windowsService struct {
	p    Process
	name string
	args []string
}

// Execute implements svc.Handler.
func (w *windowsService) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (ownCode bool, code uint32) {
	signals := make(chan os.Signal, 1)
	var tail outputTail
	p := w.p
	p.Args, p.Signals, p.Stdout, p.Stderr = append([]string{"server"}, w.args...), signals, io.Discard, &tail
	done := make(chan int, 1)
	go func() { done <- Run(p) }()
	const accepts = svc.AcceptStop | svc.AcceptShutdown
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	var alive <-chan time.Time // when to report that a slow stop makes progress
	pending := svc.Status{State: svc.StopPending, WaitHint: uint32((30 * time.Second).Milliseconds())}
	for {
		select {
		case code := <-done:
			return w.ended(code, tail.String())
		case r := <-requests:
			switch {
			case r.Cmd == svc.Interrogate:
				status <- r.CurrentStatus
			case alive == nil && (r.Cmd == svc.Stop || r.Cmd == svc.Shutdown):
				ticker := time.NewTicker(10 * time.Second)
				defer ticker.Stop()
				alive = ticker.C
				signals <- os.Interrupt
				status <- pending
			}
		case <-alive:
			pending.CheckPoint++
			status <- pending
		}
	}
}

// ended writes a failure to the event log, and returns the exit code for Windows. Windows
// restarts a service after every code other than 0. Therefore ended returns 0 if only the
// operator can fix the failure.
func (w *windowsService) ended(code int, output string) (ownCode bool, forWindows uint32) {
	if code == exitOK {
		return false, 0
	}
	if log, err := eventlog.Open(w.name); err == nil {
		_ = log.Error(1, fmt.Sprintf("eds ended with %d.\n%s", code, output)) // there is no other place to report a failure
		_ = log.Close()
	}
	if code == exitUsage {
		return false, 0
	}
	return true, uint32(code)
}

// outputTail is a writer that keeps the last 8 KiB.
type outputTail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func (l *outputTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 8 << 10
	l.text = append(l.text, p...)
	l.text = l.text[max(0, len(l.text)-most):]
	return len(p), nil
}

func (l *outputTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
