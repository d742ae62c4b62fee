// Package cli implements the command line, with one file per command. Only this package reads
// arguments and environment variables, prints, prompts, and chooses exit codes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/shopmonkeyus/eds/internal/agent"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Exit codes. They must not change, because existing deployments depend on them.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 3 // wrong usage, or a destination that fails its test
	exitRestart = 4 // of a worker: the parent must start another worker
)

// Process gives the program access to its arguments, environment, streams and signals.
type Process struct {
	Args           []string // arguments without the program's name
	Lookup         sink.Lookup
	Stdin          *os.File
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // requests to end; the second one ends the program at once

	signals  *signals
	terminal bool // Stderr is shown on a terminal, although it is a pipe itself
	// Executable is the path of the running program, or "" for os.Executable. Exists reports
	// whether a file exists; nil means os.Stat.
	Executable string
	Exists     func(path string) bool
	// OrphanLimit is the maximum time that the program continues after its parent process has
	// ended. Zero means one minute.
	OrphanLimit time.Duration
}

// System returns the Process of the real program.
func System() Process {
	// Snowflake's client queries the metadata services of cloud providers to detect its
	// platform. Only this environment variable disables the queries. Setenv fails only for a
	// malformed name.
	if _, set := os.LookupEnv(noPlatformDetection); !set {
		_ = os.Setenv(noPlatformDetection, "true")
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	return Process{Args: os.Args[1:], Lookup: os.LookupEnv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals}
}

const noPlatformDetection = "SNOWFLAKE_DISABLE_PLATFORM_DETECTION"

// Run runs the command in p.Args and returns the exit code. The first signal asks the command to
// shut down cleanly. The second signal makes Run return at once. If the program runs under the
// parent process of the reference server, Run ignores the second signal, because that process
// repeats the first one. The third signal then makes Run return.
func Run(p Process) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	p.signals = newSignals()
	done := make(chan int, 1)
	go func() { done <- execute(ctx, p) }()
	again := p.wrapped()
	for {
		select {
		case code := <-done:
			return code
		case <-p.signals.expired:
			return exitError
		case s := <-p.Signals:
			switch {
			case p.signals.received(s):
				fmt.Fprintf(p.Stderr, "\neds: %v\n", interrupted{s})
				return exitError
			case ctx.Err() != nil && again:
				again = false // the parent process repeats a signal that both processes have received
			case ctx.Err() != nil && p.signals.handlesSecond.Load():
				p.signals.endNow()
				return <-done
			case ctx.Err() != nil:
				fmt.Fprintln(p.Stderr, "eds: stopped at once; unfinished work is repeated at the next start")
				return exitError
			default:
				cancel(interrupted{s})
			}
		}
	}
}

// wrapped reports whether the parent process of the reference server started the program. It
// recognizes the flag that this parent process passes, even if other flags are invalid.
func (p Process) wrapped() bool {
	return slices.ContainsFunc(p.Args, func(arg string) bool {
		return arg == "--"+config.WrapperFlag || arg == "--"+config.WrapperFlag+"=true"
	})
}

// executable returns the path of this program.
func (p Process) executable() (string, error) {
	if p.Executable != "" {
		return p.Executable, nil
	}
	return os.Executable()
}

// signals handles the program's signals for Run and the running command.
type signals struct {
	handlesSecond atomic.Bool   // the command handles the second signal itself, and then ends at once
	second        chan struct{} // closed by endNow
	endNow        func()        // asks a command with handlesSecond to end at once
	expired       chan struct{} // closed by expire
	expire        func()        // makes Run return at once

	mu     sync.Mutex
	asking bool      // a prompt is open, so the first signal ends the program at once
	first  os.Signal // the first signal that arrived while no prompt was open, or nil
}

func newSignals() *signals {
	s := &signals{second: make(chan struct{}), expired: make(chan struct{})}
	s.endNow = sync.OnceFunc(func() { close(s.second) })
	s.expire = sync.OnceFunc(func() { close(s.expired) })
	return s
}

// received records a signal, and reports whether a prompt is open. The signal interrupts an open
// prompt.
func (s *signals) received(signal os.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil && !s.asking {
		s.first = signal
	}
	return s.asking
}

// ask marks a prompt as open. If a signal has already arrived, ask returns an interrupted
// error, and the caller must not open the prompt.
func (s *signals) ask() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		return interrupted{s.first}
	}
	s.asking = true
	return nil
}

// answered marks the open prompt as closed.
func (s *signals) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking = false
}

// interrupted is the cause of a context that was canceled because of a signal.
type interrupted struct{ signal os.Signal }

func (i interrupted) Error() string {
	if i.signal == os.Interrupt {
		return "interrupted"
	}
	return "ended by a signal (" + i.signal.String() + ")"
}

// usageError is an error that makes the program exit with code 3.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// printedError is an error whose text has already been printed.
type printedError struct{ error }

func (e printedError) Unwrap() error { return e.error }

func execute(ctx context.Context, p Process) int {
	root := newRoot(p)
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !errors.As(err, new(printedError)) && !errors.As(err, new(codeError)) && !errors.Is(err, agent.ErrReplaced) {
		fmt.Fprintf(p.Stderr, "eds: %v\n", err)
	}
	if p.wrapped() {
		return exitError // the parent process restarts the program up to five times after any other code
	}
	return exitCode(err)
}

// exitCode returns the exit code for a command that returned err.
func exitCode(err error) int {
	coded := new(codeError)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, coded):
		return int(*coded)
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, agent.ErrReplaced):
		return exitRestart
	}
	return exitError
}

// codeError is the exit code of a worker. The program exits with the same code. The worker has
// already printed the reason.
type codeError int

func (c codeError) Error() string { return fmt.Sprintf("the worker ended with %d", int(c)) }

func newRoot(p Process) *cobra.Command {
	root := &cobra.Command{
		Use:   "eds",
		Short: "Keep a database of your own equal to your Shopmonkey data",
		Long: `eds copies your data into a database that you own (eds import) and then follows
every change (eds server), into databases, streams, object stores and files.

Try it with nothing installed:   eds demo
See the destinations:            eds server help`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	common := config.BindCommon(root.PersistentFlags())
	root.SetHelpFunc(
		func(cmd *cobra.Command, _ []string) { _ = newManual(p, out(cmd)).describe(cmd) },
	) // a closed output is not an error here
	root.SetHelpCommand(newHelp(p))
	root.AddGroup(groups()...)
	root.AddCommand(in(groupStart, newEnroll(p, common), newImport(p, common), newServer(p, common))...)
	root.AddCommand(in(groupWatch, newStatus(p, common), newDoctor(p, common), newVerify(p, common),
		newAcceptGap(p, common), newDeadLetters(p, common), newHealth(p, common))...)
	root.AddCommand(in(groupSetUp, newService(p), newUpgrade(p, common), newDownload(p, common),
		newPublicKey(p), newCompletion(p), newVersion(p))...)
	root.AddCommand(in(groupTry, newDemo(p), newHQ(p, common))...)
	root.AddCommand(newWorker(p), newMan(p))
	return root
}

func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	hint := fmt.Sprintf("run %q to see the commands", cmd.Root().Name()+" help")
	if best := sink.Nearest(name, names); best != "" {
		hint = fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+best)
	}
	return usagef("unknown command %s; %s", quoteWord(cmd.CommandPath()+" ", name), hint)
}

var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,31}$`)

// quoteWord quotes prefix and argument as one word. If the argument may be a key or a URL,
// quoteWord replaces it with dots, because errors must not contain secrets.
func quoteWord(prefix, argument string) string {
	if !plainWord.MatchString(argument) {
		argument = "..."
	}
	return strconv.Quote(prefix + argument)
}

// flagError turns an error of pflag into an error that suggests the closest flag and does not
// contain the flag's value.
func flagError(cmd *cobra.Command, err error) error {
	unknown, invalid := new(pflag.NotExistError), new(pflag.InvalidValueError)
	switch {
	case errors.As(err, &invalid):
		why := invalid.Unwrap()
		if errors.As(why, new(*strconv.NumError)) {
			why = fmt.Errorf("want a value of type %s", invalid.GetFlag().Value.Type())
		}
		return usagef("--%s: %w", invalid.GetFlag().Name, why)
	case !errors.As(err, &unknown):
		return usageError{err}
	case unknown.GetSpecifiedShortnames() != "":
		return usagef("unknown flag -%s; a flag of more than one letter begins with --; run %q to see them all",
			unknown.GetSpecifiedName(), cmd.CommandPath()+" --help")
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if best := sink.Nearest(unknown.GetSpecifiedName(), names); best != "" {
		return usagef("%s: unknown flag %q; did you mean %q?", cmd.CommandPath(), "--"+unknown.GetSpecifiedName(), "--"+best)
	}
	return usagef("%w; run %q to see them all", err, cmd.CommandPath()+" --help")
}

// noArgs returns an error if there are arguments. The error names the first argument.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && cmd.HasSubCommands() {
		return unknownCommand(cmd, args[0])
	}
	if len(args) > 0 {
		return usagef("%s takes no arguments, but got %s", cmd.CommandPath(), quoteWord("", args[0]))
	}
	return nil
}

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// takesEscapes reports whether w is a terminal that supports escape sequences.
func (p Process) takesEscapes(w any) bool {
	return isTerminal(w) && !p.dumb() && enableEscapes(w.(*os.File))
}

// dumb reports whether the environment variable TERM describes a terminal that supports only
// plain text.
func (p Process) dumb() bool {
	name, _ := p.Lookup("TERM")
	return name == "dumb"
}

// mayColor reports whether the environment variables allow colors on a terminal.
func (p Process) mayColor() bool {
	noColor, _ := p.Lookup("NO_COLOR")
	return noColor == "" && !p.dumb()
}

// bold reports whether to print headings on standard output in bold.
func (p Process) bold() bool { return p.mayColor() && p.takesEscapes(p.Stdout) }
