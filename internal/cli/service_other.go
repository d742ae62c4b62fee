//go:build !windows

package cli

import "errors"

func windowsServices(host) (serviceManager, error) {
	return nil, errors.New("this program is not for Windows")
}

func runAsService(Process, string, []string) error {
	return usagef("eds service run is for the service manager of Windows; run eds server")
}
