// swift-tools-version: 6.2
import PackageDescription

/// Spans as properties of our own buffer types need Lifetimes; everything else is plain Swift 6.
let settings: [SwiftSetting] = [
    .enableExperimentalFeature("Lifetimes"),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

let systemPackage: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")

/// A library target of ours.
func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

/// A test target of ours; all of them share BlockTestSupport.
func tests(_ name: String, path: String? = nil, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(
        name: name, dependencies: ["BlockTestSupport"] + dependencies, path: path,
        // Optimised, the tests themselves would take longer to build than they gain.
        swiftSettings: settings + [.unsafeFlags(["-Onone"], .when(configuration: .release))])
}

let package = Package(
    name: "platter",
    platforms: [.macOS("26.0")],
    products: [
        .executable(name: "platter", targets: ["platter"]),
        .library(
            name: "Platter",
            targets: ["BlockCore", "BlockProtocols", "BlockFilters", "BlockFormats", "BlockJobs"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-system", from: "1.6.0")
    ],
    targets: [
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CDeflate", pkgConfig: "libdeflate", providers: [.apt(["libdeflate-dev"])]),
        .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CBzip2", providers: [.apt(["libbz2-dev"])]),
        .systemLibrary(name: "CLzma", pkgConfig: "liblzma", providers: [.apt(["liblzma-dev"])]),
        .target(name: "CHost", cSettings: [.define("_GNU_SOURCE")]),
        .target(
            name: "CRing", cSettings: [.define("_GNU_SOURCE")],
            linkerSettings: [.linkedLibrary("uring", .when(platforms: [.linux]))]),
        library("BlockCore", ["CHost", systemPackage]),
        library("BlockProtocols", ["BlockCore", "CHost", "CRing", systemPackage]),
        library("BlockFilters", ["BlockCore"]),
        library(
            "BlockFormats",
            ["BlockCore", "CHost", "CZlib", "CZstd", "CDeflate", "CCrypto", "CBzip2", "CLzma"]),
        library("BlockJobs", ["BlockCore"]),
        library(
            "PlatterCommands",
            ["BlockCore", "BlockProtocols", "BlockFilters", "BlockFormats", "BlockJobs", "CHost"]),
        .executableTarget(name: "platter", dependencies: ["PlatterCommands"], swiftSettings: settings),
        .target(
            name: "BlockTestSupport",
            dependencies: ["BlockCore", "BlockProtocols", "BlockFilters", "BlockFormats", "BlockJobs"],
            path: "Tests/BlockTestSupport", swiftSettings: settings),
        // The README's example, which a test compares with the README and runs. In no product.
        .executableTarget(
            name: "ReadmeExample", dependencies: ["BlockCore", "BlockProtocols", "BlockFormats"],
            path: "Tests/ReadmeExample", swiftSettings: settings),
        tests("BlockCoreTests", ["BlockCore", "CHost"]),
        tests(
            "BlockProtocolsTests",
            ["BlockProtocols", "BlockFilters", "BlockFormats", "CHost", systemPackage]),
        tests("BlockFormatsTests", ["BlockFormats"]),
        tests("BlockJobsTests", ["BlockJobs", "BlockFormats"]),
        tests("PlatterCommandsTests", ["PlatterCommands"]),
        tests("InteropTests", path: "Tests/Interop", ["PlatterCommands", "BlockFormats", "BlockJobs"]),
    ]
)

// Scripts/fuzz builds it, with libFuzzer; nothing else can link it.
if let folder = Context.environment["PLATTER_FUZZ"] {
    for target in package.targets where target.type == .regular && target.name != "CHost" {
        target.swiftSettings = (target.swiftSettings ?? []) + [.unsafeFlags(["-sanitize=fuzzer"])]
    }
    package.targets.append(
        .executableTarget(
            name: "Fuzz", dependencies: ["BlockTestSupport"], path: "Tests/Fuzz", swiftSettings: settings,
            linkerSettings: [
                .unsafeFlags([folder + "/libclang_rt.fuzzer_no_main-x86_64.a"]), .linkedLibrary("stdc++"),
                .linkedLibrary("m"),
            ]))
}
