package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// service is the definition of a service for the service manager of the operating system.
type service struct {
	Name    string
	Program string // absolute
	DataDir string // absolute
	User    string
	Args    []string // arguments of eds server, without --data-dir
	// Upgradable permits the service to write to its program's directory, so that it can
	// upgrade the program.
	Upgradable bool
}

// serviceManager is the service manager of the operating system: systemd, launchd or the service
// control manager of Windows. Methods identify a service by its name.
type serviceManager interface {
	// check returns an error if the service manager cannot run s.
	check(s service) error
	install(ctx context.Context, s service) error
	uninstall(ctx context.Context, name string) error
	start(ctx context.Context, name string) error
	stop(ctx context.Context, name string) error
	// status returns the state as a short text to print, and whether the service runs.
	status(ctx context.Context, name string) (state string, runs bool, err error)
}

var errNotInstalled = errors.New("the service is not installed; see: eds service install --help")

// host is the machine on which services are installed. Tests replace it.
type host struct {
	system  string // operating system, as in runtime.GOOS
	root    string // prefix of all absolute paths; "" except in tests
	run     func(ctx context.Context, program string, args ...string) (output string, err error)
	own     func(path, user string) error // changes the owner of path to an existing user
	service func(p Process, name string, args []string) error
}

// thisHost returns the machine on which this program runs.
func thisHost() host {
	return host{system: runtime.GOOS, run: runTool, own: giveTo, service: runAsService}
}

func runTool(ctx context.Context, program string, args ...string) (string, error) {
	text, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	output := strings.TrimSpace(string(text))
	if err != nil && output != "" {
		err = fmt.Errorf("%w: %s", err, output)
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return output, err
}

func giveTo(path, name string) error {
	owner, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(owner.Uid)
	gid, err2 := strconv.Atoi(owner.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// manager returns three results: the host's service manager, and the default data directory and the
// default account of its services.
func (h host) manager(p Process) (m serviceManager, dataDir, account string, err error) {
	switch h.system {
	case "linux":
		if _, err := os.Stat(filepath.Join(h.root, "/run/systemd/system")); err != nil {
			return nil, "", "", usagef("this machine does not run systemd; configure its service manager to run: eds server")
		}
		return systemd{h}, "/var/lib/eds", "eds", nil
	case "darwin":
		account, _ := p.Lookup("SUDO_USER")
		return launchd{h}, "/usr/local/var/eds", account, nil
	case "windows":
		m, err := windowsServices(h)
		programData, _ := p.Lookup("ProgramData")
		return m, filepath.Join(first(programData, `C:\ProgramData`), "eds"), localService, err
	}
	return nil, "", "", fmt.Errorf("eds supports the service managers of Linux (systemd), macOS and Windows, not of %s", h.system)
}

// localService is the Windows account for services without special permissions.
const localService = `NT AUTHORITY\LocalService`

// makeDataDir creates the data directory of the service if that directory does not exist. Only the
// service's user can access the directory.
func (h host) makeDataDir(s service) error {
	dir := filepath.Join(h.root, s.DataDir)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the data directory: %w", err)
	}
	if err := h.own(dir, s.User); err != nil {
		return errors.Join(
			fmt.Errorf("change the owner of the data directory %s to the user of the service: %w", dir, err),
			os.Remove(dir),
		)
	}
	return nil
}

// define writes the definition of a service to a new file. It fails if the file exists.
func (h host) define(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists already; run first: eds service uninstall", path)
	case err != nil:
		return err
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func newService(p Process) *cobra.Command { return serviceCommand(p, thisHost()) }

func serviceCommand(p Process, h host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Run the server as a service of systemd, launchd or Windows",
		Long: `Runs eds server as a service of the system: from the start of the machine, as a user
without rights, restarted after a failure. The deb and rpm packages install a service
already.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	name := ""
	cmd.PersistentFlags().StringVar(&name, "name", "eds", "`name` of the service, for more than one server on a machine")
	manager := func() (serviceManager, error) {
		if !serviceName.MatchString(name) {
			return nil, usagef("--name: want lower-case letters, digits and hyphens, starting with a letter")
		}
		m, _, _, err := h.manager(p)
		return m, err
	}
	act := func(use, short string, do func(m serviceManager, ctx context.Context, name string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := manager()
			if err != nil {
				return err
			}
			return privileged(use+" the service", do(m, cmd.Context(), name))
		}}
	}
	cmd.AddCommand(
		newServiceInstall(p, h, &name),
		act("uninstall", "Stop and remove the service; its data stay", serviceManager.uninstall),
		act("start", "Start the service", serviceManager.start),
		act("stop", "Stop the service after it has applied the changes that it has received", serviceManager.stop),
		newServiceStatus(manager, &name), newServiceRun(p, h, &name),
	)
	return cmd
}

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// privileged adds the operation to the error. If the error means that a permission is missing,
// privileged also adds a remedy.
func privileged(operation string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(usageError)):
		return err
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w; run it as root (sudo), on Windows as an administrator", operation, err)
	}
	return fmt.Errorf("%s: %w", operation, err)
}

func newServiceInstall(p Process, h host, name *string) *cobra.Command {
	s := service{}
	cmd := &cobra.Command{
		Use:   "install [flags] [-- FLAGS OF eds server]",
		Short: "Install the server as a service of the system",
		Long: `Installs eds server as a service of the system, which starts with the machine. Write
flags of eds server after --. Enrol and import with the same --data-dir, as the same
user, before you start the service. All users of the machine can read the definition
of a service, so it must not contain a secret: use ${NAME} or ${file:/path} in the
URL.`,
		Example: `  sudo eds service install
  sudo eds service install --data-dir /var/lib/shop -- --port 9090
  sudo eds service start`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return usagef("%s: write flags of eds server after --; got %q", cmd.CommandPath(), args[0])
			}
			return nil
		},
	}
	cmd.Flags().
		StringVarP(
			&s.DataDir, "data-dir", "d", "",
			"`directory` of state, logs and configuration (default /var/lib/eds, /usr/local/var/eds or ProgramData)",
		)
	cmd.Flags().
		StringVar(&s.User, "user", "", "`user` of the service (default: eds; on macOS the user who runs sudo; on Windows LocalService)")
	cmd.Flags().
		BoolVar(&s.Upgradable, "self-upgrade", false, "let the service upgrade its program, in a directory that belongs to its user")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !serviceName.MatchString(*name) {
			return usagef("--name: want lower-case letters, digits and hyphens, starting with a letter")
		}
		m, dataDir, account, err := h.manager(p)
		if err != nil {
			return err
		}
		if *name != "eds" {
			dataDir = filepath.Join(filepath.Dir(dataDir), *name)
		}
		s.Name, s.Args = *name, args
		s.DataDir, s.User = first(s.DataDir, dataDir), first(s.User, account)
		if s.Program, err = p.executable(); err != nil {
			return err
		}
		if err := errors.Join(checkService(s), m.check(s)); err != nil {
			return usageError{err}
		}
		if err := m.install(cmd.Context(), s); err != nil {
			return privileged("install the service", err)
		}
		_, err = fmt.Fprintf(out(cmd), "The service %s starts with the machine, runs as %s, and has its data in %s.\n"+
			"To start it now: eds service start --name %s\n", s.Name, s.User, s.DataDir, s.Name)
		return err
	}
	return cmd
}

// checkService returns an error if no service manager could run the service, or if the
// definition of the service would expose a secret.
func checkService(s service) error {
	if !filepath.IsAbs(s.DataDir) {
		return errors.New("--data-dir: want an absolute path, because a service has no working directory")
	}
	if s.User == "" {
		return errors.New("--user: want the user of the service")
	}
	for _, text := range append(slices.Clone(s.Args), s.DataDir, s.User, s.Program) {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
			return errors.New("an argument contains a line break or another control character, which no service manager accepts")
		}
	}
	flags := pflag.NewFlagSet("server", pflag.ContinueOnError)
	bindServer(config.BindCommon(flags), flags)
	if err := flags.Parse(s.Args); err != nil {
		return fmt.Errorf("flags of eds server: %w", err)
	}
	if flags.Changed("data-dir") {
		return errors.New("write --data-dir before --")
	}
	if flags.Changed("api-key") {
		return errors.New("all users could read an --api-key; run eds enroll, or set SM_APIKEY in the environment of the service")
	}
	if url := flags.Lookup("url").Value.String(); !strings.Contains(url, "${") && telemetry.MaskText(url) != url {
		return errors.New(
			"all users could read the password in --url; write ${PASSWORD} or ${file:/path}, or the whole URL into config.toml",
		)
	}
	return nil
}

func newServiceStatus(manager func() (serviceManager, error), name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show whether the service runs; see also eds status",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := manager()
			if err != nil {
				return err
			}
			state, runs, err := m.status(cmd.Context(), *name)
			if err != nil {
				return privileged("query the service", err)
			}
			fmt.Fprintln(out(cmd), state)
			if !runs {
				return printedError{errors.New("the service does not run")}
			}
			return nil
		},
	}
}

// newServiceRun returns the command that the service manager of Windows runs.
func newServiceRun(p Process, h host, name *string) *cobra.Command {
	return &cobra.Command{
		Use: "run", Hidden: true,
		Short: "Run as a Windows service; for the service manager",
		RunE:  func(_ *cobra.Command, args []string) error { return h.service(p, *name, args) },
	}
}
